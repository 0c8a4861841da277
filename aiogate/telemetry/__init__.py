"""What the gateway tells about itself: events, decision records, logs."""
