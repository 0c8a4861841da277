"""The store that several gateways share: a Redis server, the master behind sentinels, or a cluster's node.

Read `store` first: it says what stands where. Nothing here is imported unless the setting `store` names a Redis.
"""
