"""The management side: what operators, their scripts and the web dashboard talk to, on a listener of its own."""
