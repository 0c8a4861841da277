"""What may be done, whoever asks over HTTP. Nothing here knows aiohttp."""
