"""What runs inside Redis, so that it is one step: Lua, called by its digest.

A server that does not know a script (it was restarted, or is another one since a failover) says `NOSCRIPT`, and gets
the text once. Every key that a script touches has the same hash tag on a cluster; index keys of sessions are made
inside the script, from the prefix, because which ones there are stands in the record that is being replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Any, Final

from redis.exceptions import NoScriptError, ResponseError

from aiogate.stores.base import StoreUnavailable
from aiogate.stores.redis.lane import Argument, Lane

__all__ = ["APPEND", "BEAT", "DELETE", "PUT", "SWEEP", "TAKE", "VAULT_PUT", "VAULT_SWAP", "VAULT_TAKE", "Script"]


class Script:
    """A Lua script. `run` gives its reply."""

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, lane: Lane, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Any:
        """Run it once. Raises `StoreUnavailable`."""
        try:
            try:
                return await lane.call("EVALSHA", self.digest, len(keys), *keys, *arguments)
            except NoScriptError:
                return await lane.call("EVAL", self.text, len(keys), *keys, *arguments)
        except ResponseError as error:
            raise StoreUnavailable(f"Redis refuses a script: {error}") from error


TAKE: Final = Script("""
local now = tonumber(ARGV[1])
local slack = 60
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
  slack = 1
end
local stored = redis.call('MGET', unpack(KEYS))
local refused = -1
local counts, ends, known = {}, {}, {}
for i = 1, #KEYS do
  local limit, window = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local count, e
  if stored[i] then
    count, e = string.match(stored[i], '^(%d+) (%S+)$')
    count, e = tonumber(count), tonumber(e)
  end
  known[i] = e
  if not (count and e) or (e ~= 0 and e <= now) then
    count, e = 0, 0
    if window > 0 then e = now + window end
  elseif window > 0 and (e == 0 or e > now + window) then
    e = now + window
  end
  if refused < 0 and count >= limit then refused = i - 1 end
  counts[i], ends[i] = count, e
end
local answer = {refused, string.format('%.17g', now)}
for i = 1, #KEYS do
  local count, e = counts[i], ends[i]
  if refused < 0 then count = count + 1 end
  local text = string.format('%.17g', e)
  if refused < 0 or (count > 0 and e ~= known[i]) then
    local value = string.format('%d ', count) .. text
    if e == 0 then
      redis.call('SET', KEYS[i], value)
    else
      redis.call('SET', KEYS[i], value, 'PX', string.format('%d', math.ceil((e - now + slack) * 1000)))
    end
  end
  answer[#answer + 1] = count
  answer[#answer + 1] = text
end
return answer
""")
"""`domain.limits.decide`, word for word. Keys: one per bucket. Arguments: the time, or nothing to take Redis's own,
then limit and window of each bucket. A value is the count, a blank, and when the window ends. What is no such text, or
no text at all, counts as nothing and is written over."""

PUT: Final = Script("""
local function index(name)
  local key = ARGV[1] .. name
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', key) end
  return key
end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local name, org, apis = ARGV[2], ARGV[3], cjson.decode(ARGV[7])
local old = redis.call('HMGET', KEYS[1], 'org', 'apis', 'revision')
if old[1] then
  if old[1] ~= org then redis.call('ZREM', index('org:' .. old[1]), name) end
  for _, api in ipairs(cjson.decode(old[2] or '[]')) do redis.call('ZREM', index('api:' .. api), name) end
end
local revision = (tonumber(old[3] or '0') or 0) + 1
redis.call('HSET', KEYS[1], 'name', name, 'org', org, 'kind', ARGV[4], 'label', ARGV[5], 'document', ARGV[6],
  'apis', ARGV[7], 'delete_at', ARGV[8], 'revision', string.format('%d', revision))
if ARGV[9] == '' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[9]) end
redis.call('ZADD', index('all'), 0, name)
redis.call('ZADD', index('orgs'), 0, org)
redis.call('ZADD', index('org:' .. org), 0, name)
for _, api in ipairs(apis) do redis.call('ZADD', index('api:' .. api), 0, name) end
return revision
""")
"""Write a record and its places in the indexes. Key: the record. Arguments: the prefix of the indexes, the stored name,
organisation, kind, label, document, API ids as a JSON list, `delete_at`, milliseconds to live or nothing."""

DELETE: Final = Script("""
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then
  redis.call('DEL', KEYS[1])
  return false
end
local old = redis.call('HMGET', KEYS[1], 'org', 'apis', 'delete_at')
redis.call('DEL', KEYS[1])
redis.call('ZREM', ARGV[1] .. 'all', ARGV[2])
if old[1] then redis.call('ZREM', ARGV[1] .. 'org:' .. old[1], ARGV[2]) end
for _, api in ipairs(cjson.decode(old[2] or '[]')) do redis.call('ZREM', ARGV[1] .. 'api:' .. api, ARGV[2]) end
return old[3]
""")
"""Forget a record. Key: the record. Arguments: the prefix of the indexes, the stored name. Reply: its `delete_at`."""

SWEEP: Final = Script("""
for i = 2, #ARGV do
  if redis.call('EXISTS', ARGV[1] .. ARGV[i]) == 0 then redis.call('ZREM', KEYS[1], ARGV[i]) end
end
""")
"""Take names out of an index whose records are gone. Key: the index. Arguments: the prefix of records, the names."""

APPEND: Final = Script("""
for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  local wanted = key == KEYS[1] and 'list' or 'hash'
  if kind ~= wanted and kind ~= 'none' then redis.call('DEL', key) end
end
for i = 3, #ARGV, 3 do
  local id, shadow, text = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  redis.call('RPUSH', KEYS[1], id .. ' ' .. text)
  local known = redis.call('HGET', KEYS[2], id)
  if shadow == '0' or not known or string.sub(known, 1, 1) == '1' then
    redis.call('HSET', KEYS[2], id, shadow .. text)
  end
end
local over = redis.call('LLEN', KEYS[1]) - tonumber(ARGV[1])
for _ = 1, over do
  local id, text = string.match(redis.call('LPOP', KEYS[1]), '^(%S+) (.*)$')
  local known = redis.call('HGET', KEYS[2], id)
  if known and string.sub(known, 2) == text then redis.call('HDEL', KEYS[2], id) end
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
""")
"""Append decisions and drop the oldest. Keys: the list, the hash by request. Arguments: how many are kept, seconds to
live, then of each decision the request id, `1` or `0` for shadow, and the text. What a shadow rule would have refused
is not why the request was refused: it does not replace what does."""

BEAT: Final = Script("""
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
redis.call('ZADD', KEYS[1], string.format('%.6f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now - ARGV[3]))
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('SET', KEYS[3], ARGV[5], 'NX')
return {redis.call('GET', KEYS[3]), redis.call('ZCOUNT', KEYS[1], string.format('%.6f', now - ARGV[4]), '+inf')}
""")
"""A gateway's sign of life. Keys: the set of gateways by when they were seen, its own line, the signing key.
Arguments: its id, its line, seconds until it is forgotten, seconds until it is lost, a signing key in case there is
none. Reply: the signing key, and how many gateways are not lost."""

VAULT_PUT: Final = Script("""
local old = redis.call('HGET', KEYS[1], 'groups')
for _, group in ipairs(cjson.decode(old or '[]')) do redis.call('ZREM', ARGV[1] .. group, ARGV[2]) end
redis.call('HSET', KEYS[1], 'document', ARGV[3], 'until', ARGV[4], 'groups', ARGV[6])
if ARGV[5] == '' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
for _, group in ipairs(cjson.decode(ARGV[6])) do redis.call('ZADD', ARGV[1] .. group, 0, ARGV[2]) end
""")
"""Write a document of the vault. Key: the document. Arguments: the prefix of groups, the name, the document, when it
ends, milliseconds to live or nothing, the groups as a JSON list."""

VAULT_SWAP: Final = Script("""
local old = redis.call('HMGET', KEYS[1], 'document', 'until')
if not old[1] then return false end
local ends = tonumber(old[2])
if ends > 0 and ends <= tonumber(ARGV[4]) then return false end
redis.call('HSET', KEYS[1], 'document', ARGV[1], 'until', ARGV[2])
if ARGV[3] == '' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return old[1]
""")
"""Replace a document that is there. Key: the document. Arguments: the new one, when it ends, milliseconds to live or
nothing, the time. Reply: what was there."""

VAULT_TAKE: Final = Script("""
local old = redis.call('HMGET', KEYS[1], 'document', 'until', 'groups')
redis.call('DEL', KEYS[1])
for _, group in ipairs(cjson.decode(old[3] or '[]')) do redis.call('ZREM', ARGV[1] .. group, ARGV[2]) end
return {old[1], old[2]}
""")
"""Give a document and forget it. Key: the document. Arguments: the prefix of groups, the name."""
