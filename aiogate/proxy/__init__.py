"""The request side: from the client's socket through the route table to the upstream's, and back."""
