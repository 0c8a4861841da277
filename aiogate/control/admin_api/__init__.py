"""The Admin API under `/admin`: organisations and their dashboard users, for whoever has the gateway's secret."""
