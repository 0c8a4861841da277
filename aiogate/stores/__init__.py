"""Where state lives: protocols, the engines behind them, and the repositories that the rest of the gateway uses."""
