"""The two programs that run inside Redis, each in one step that nobody can interrupt.

Both keep a line: tickets in the order of their coming, and until when each of them counts. Its owner
renews it; one that nobody renews any more goes by itself. A ticket begins with the id of the channel on
which its owner listens, so that Redis can tell who is still there: nothing is handed to somebody who
could not hear of it. The clock is the server's, the same for all.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Script:
    """A program for Redis.

    Attributes:
        text: The program.
        sha: The name under which Redis keeps it.
    """

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False)
        object.__setattr__(self, "sha", digest.hexdigest())


# KEYS and ARGV of both begin alike: line, tickets, sequence; operation, channels, lease.
_LINE = """
local line, tickets, sequence = KEYS[1], KEYS[2], KEYS[3]
local operation, channels, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000

local function channel_of(ticket)
  return channels .. string.match(ticket, '^[^:]+')
end

-- Asked once per run: who listens does not change while this runs.
local heard = {}
local function hears(ticket)
  local channel = channel_of(ticket)
  if heard[channel] == nil then
    heard[channel] = redis.call('PUBSUB', 'NUMSUB', channel)[2] > 0
  end
  return heard[channel]
end

local function tell(ticket, what)
  redis.call('PUBLISH', channel_of(ticket), ticket .. ' ' .. what)
end

-- What a crash leaves behind must not stay for ever.
local function keep(key, seconds)
  local wanted = math.ceil(1000 * seconds)
  if redis.call('PTTL', key) < wanted then redis.call('PEXPIRE', key, wanted) end
end

local function join(ticket)
  if not redis.call('ZSCORE', line, ticket) then
    redis.call('ZADD', line, redis.call('INCR', sequence), ticket)
  end
  redis.call('ZADD', tickets, now + lease, ticket)
  keep(line, 2 * lease + 60)
  keep(tickets, 2 * lease + 60)
end

local function leave(ticket)
  redis.call('ZREM', tickets, ticket)
  return redis.call('ZREM', line, ticket)
end
"""

SLOTS = Script(
    _LINE
    + """
local holders, limits, names = KEYS[4], KEYS[5], KEYS[6]
local name, default = ARGV[4], tonumber(ARGV[5])

local function limit()
  return tonumber(redis.call('HGET', limits, name) or default)
end

local function prune()
  redis.call('ZREMRANGEBYSCORE', holders, '-inf', now)
  for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', tickets, '-inf', now)) do leave(ticket) end
end

local function hold(ticket, expiry)
  local new = redis.call('ZADD', holders, expiry, ticket)
  keep(holders, 2 * lease + 60)
  return new == 1
end

local function admit(own)
  local most, rank = limit(), 0
  while most <= 0 or redis.call('ZCARD', holders) < most do
    local first = redis.call('ZRANGE', line, rank, rank)[1]
    if not first then return end
    if first == own or hears(first) then
      hold(first, redis.call('ZSCORE', tickets, first))
      leave(first)
      if first ~= own then tell(first, 'go') end
    else
      rank = rank + 1
    end
  end
end

local function look()
  return {limit(), redis.call('ZCARD', holders), redis.call('ZCARD', line)}
end

local function acquire(ticket, waits)
  redis.call('SADD', names, name)
  prune()
  if not redis.call('ZSCORE', holders, ticket) then join(ticket) end
  admit(ticket)
  if redis.call('ZSCORE', holders, ticket) then return 1 end
  if waits == '0' then leave(ticket) end
  return 0
end

-- Held is what its owner says is held, also if Redis forgot it meanwhile.
local function renew(ticket, held)
  if held == '1' then return hold(ticket, now + lease) and 2 or 1 end
  if redis.call('ZSCORE', holders, ticket) then
    hold(ticket, now + lease)
    return 1
  end
  join(ticket)
  return 0
end

if operation == 'acquire' then return acquire(ARGV[6], ARGV[7]) end
if operation == 'beat' then
  local states = {}
  redis.call('SADD', names, name)
  for at = 6, #ARGV, 2 do states[#states + 1] = renew(ARGV[at], ARGV[at + 1]) end
  prune()
  admit('')
  return states
end
if operation == 'set' then redis.call('HSET', limits, name, ARGV[6]) end
if operation == 'remove' then redis.call('HDEL', limits, name) end
prune()
if operation == 'leave' then
  leave(ARGV[6])
  redis.call('ZREM', holders, ARGV[6])
end
admit('')
local seen = look()
if seen[2] == 0 and seen[3] == 0 then redis.call('SREM', names, name) end
return seen
"""
)

RATE = Script(
    _LINE
    + """
local wants, kept, asked, grants = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local minute, burst, share = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local own_limits = ARGV[7]
-- Uses this close share one entry of the memory, always to the safe side; a nap may end this late
-- without a loss; times are kept to the microsecond.
local GRAIN, SLACK, EPSILON = minute / 240, 0.02, 0.000001
local LIGHT, SLOWEST, CUT, BACK_AFTER, OVER = 0.1, 0.1, 0.5, 30, 4

-- --- State -------------------------------------------------------------------------------------

local packed = redis.call('GET', kept)
local state = packed and cmsgpack.unpack(packed)
  or {requests = {used = 0, spent = 0, uses = {}}, tokens = {used = 0, spent = 0, uses = {}},
      paused = 0, epoch = 0, told = {}}

local function limits()
  redis.call('ZREMRANGEBYSCORE', asked, '-inf', now - 2 * minute)
  local requests, tokens = state.told.requests or math.huge, state.told.tokens or math.huge
  local pairs_asked = redis.call('ZRANGE', asked, 0, -1)
  pairs_asked[#pairs_asked + 1] = own_limits
  for _, pair in ipairs(pairs_asked) do
    local first, second = string.match(pair, '^(%S+) (%S+)$')
    requests = math.min(requests, tonumber(first) or math.huge)
    tokens = math.min(tokens, tonumber(second) or math.huge)
  end
  return requests, tokens
end

-- --- Buckets: as in manyhands.limits.bucket ------------------------------------------------------

local function forget(bucket)
  while bucket.uses[1] and bucket.uses[1][2] + minute <= now + EPSILON do
    bucket.used = bucket.used - table.remove(bucket.uses, 1)[3]
  end
  if #bucket.uses == 0 then bucket.used = 0 end
end

local function advance(bucket, limit, most)
  forget(bucket)
  bucket.limit, bucket.rate, bucket.burst = nil, nil, nil
  if limit == math.huge then
    bucket.level = nil
    return
  end
  bucket.limit, bucket.rate, bucket.burst = limit, limit / minute, most
  if bucket.level then
    local grown = bucket.level + math.max(0, now - bucket.updated) * bucket.rate
    bucket.level = math.min(grown, most + bucket.rate * SLACK)
  else
    bucket.level = most
  end
  bucket.updated = now
end

local function wait_for_minute(bucket, amount)
  local excess = bucket.used + amount - bucket.limit
  for _, use in ipairs(bucket.uses) do
    if excess <= EPSILON * bucket.limit then return 0 end
    excess = excess - use[3]
    if excess <= EPSILON * bucket.limit then return use[2] + minute - now end
  end
  return 0
end

local function wait_for(bucket, amount)
  if not bucket.limit then return 0 end
  local missing = math.min(amount, bucket.burst) - bucket.level
  local wait = missing > EPSILON and missing / bucket.rate or 0
  return math.max(wait, wait_for_minute(bucket, math.min(amount, bucket.limit)))
end

local function take(bucket, amount)
  if bucket.level then bucket.level = bucket.level - amount end
  bucket.used, bucket.spent = bucket.used + amount, bucket.spent + amount
  local last = bucket.uses[#bucket.uses]
  if not last or now - last[1] > GRAIN then
    bucket.uses[#bucket.uses + 1] = {now, now, amount}
    return now
  end
  last[2], last[3] = now, last[3] + amount
  return last[1]
end

local function correct(bucket, since, difference)
  bucket.spent = bucket.spent + difference
  if bucket.level then bucket.level = math.min(bucket.burst, bucket.level - difference) end
  for _, use in ipairs(bucket.uses) do
    if use[1] == since then
      use[3], bucket.used = use[3] + difference, bucket.used + difference
      return
    end
  end
  if difference > 0 then
    bucket.used = bucket.used + difference
    bucket.uses[#bucket.uses + 1] = {now, now, difference}
  end
end

-- --- The ramp after a refusal: as in manyhands.limits.bucket -------------------------------------

local function pace()
  local elapsed = math.max(0, now - state.ramp.began)
  return state.ramp.refused * (1 + CUT * ((elapsed - BACK_AFTER) / BACK_AFTER) ^ 3)
end

local function ramping()
  if state.ramp and pace() >= math.min(state.requests.rate or math.huge, OVER * state.ramp.refused) then
    state.ramp = nil
  end
  return state.ramp
end

local function refused_pace()
  if ramping() then return pace() end
  local rate = state.requests.rate or math.huge
  local least = rate < math.huge and math.max(1, rate * LIGHT) or 1
  return math.min(rate, math.max(least, state.requests.used / minute))
end

local function pause(seconds, epoch, seen)
  state.paused = math.max(state.paused, now + math.max(0, seconds))
  if epoch == '' or tonumber(epoch) == state.epoch then
    state.epoch = state.epoch + 1
    local refused = math.max(SLOWEST, tonumber(seen) or refused_pace())
    state.ramp = {refused = refused, began = state.paused, next = state.paused}
    if state.tokens.level then state.tokens.level = math.min(state.tokens.level, 0) end
  elseif state.ramp and now < state.ramp.began then
    state.ramp.began, state.ramp.next = state.paused, state.paused
  end
end

-- --- The line ------------------------------------------------------------------------------------

local function number(value)
  return string.format('%.17g', value)
end

local function drop(ticket)
  redis.call('HDEL', wants, ticket)
  return leave(ticket)
end

local function come(ticket, tokens)
  join(ticket)
  redis.call('HSET', wants, ticket, tokens)
  keep(wants, 2 * lease + 60)
end

local function wait(tokens)
  local seconds = math.max(
    state.paused - now, wait_for(state.requests, 1), wait_for(state.tokens, tokens))
  if ramping() then seconds = math.max(seconds, state.ramp.next - now) end
  return seconds
end

local function go(ticket, tokens)
  if state.ramp then state.ramp.next = math.max(state.ramp.next, now - SLACK) + 1 / pace() end
  local request, use = take(state.requests, 1), take(state.tokens, tokens)
  local grant = table.concat({'go', number(now), number(request), number(use),
    number(state.requests.spent), number(state.tokens.spent), state.epoch, number(tokens)}, ' ')
  redis.call('SET', grants .. ticket, grant, 'PX', math.ceil(2000 * lease))
  return grant
end

-- Lets pass who may, and tells the next one when to ask again.
local function serve(own, remind)
  local rank, answer = 0, ''
  while true do
    local first = redis.call('ZRANGE', line, rank, rank)[1]
    if not first then return answer end
    if first ~= own and not hears(first) then
      rank = rank + 1
    else
      local tokens = tonumber(redis.call('HGET', wants, first) or 0)
      local seconds = wait(tokens)
      local what
      if seconds <= EPSILON then
        drop(first)
        what = go(first, tokens)
      else
        what = 'nap ' .. number(seconds)
      end
      local known = seconds > EPSILON and state.head == first and now + seconds >= state.head_at - 0.001
      if first == own then answer = what elseif remind or not known then tell(first, what) end
      if seconds > EPSILON then
        state.head, state.head_at = first, now + seconds
        return answer
      end
    end
  end
end

local function prune()
  for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', tickets, '-inf', now)) do drop(ticket) end
end

-- --- Operations ----------------------------------------------------------------------------------

local operations = {}

function operations.reserve(ticket, tokens, waits)
  local grant = redis.call('GET', grants .. ticket)
  if grant then return grant end
  come(ticket, tokens)
  local answer = serve(ticket)
  if waits == '0' and string.sub(answer, 1, 2) ~= 'go' then drop(ticket) end
  return answer
end

function operations.beat(...)
  local answers, given = {}, {...}
  for at = 1, #given, 2 do
    local grant = redis.call('GET', grants .. given[at])
    if not grant then come(given[at], given[at + 1]) end
    answers[#answers + 1] = grant or ''
  end
  serve('', true)
  return answers
end

function operations.leave(ticket)
  drop(ticket)
  local grant = redis.call('GET', grants .. ticket)
  if grant then
    local request, use, tokens = string.match(grant, '^go %S+ (%S+) (%S+) %S+ %S+ %S+ (%S+)$')
    redis.call('DEL', grants .. ticket)
    correct(state.requests, tonumber(request), -1)
    correct(state.tokens, tonumber(use), -tonumber(tokens))
  end
  serve('')
end

function operations.settle(request, requests, use, tokens)
  if requests ~= '0' then correct(state.requests, tonumber(request), tonumber(requests)) end
  correct(state.tokens, tonumber(use), tonumber(tokens))
  serve('')
end

function operations.pause(seconds, epoch, seen)
  pause(tonumber(seconds), epoch, seen)
  serve('')
end

local function lower(bucket, left, at, spent)
  if not bucket.limit or left == '' then return end
  left = tonumber(left)
  -- The answer tells how it was when the call arrived.
  if at ~= '' then left = left + bucket.rate * (now - tonumber(at)) - (bucket.spent - tonumber(spent)) end
  bucket.level = math.min(bucket.level, left)
end

local function refresh()
  local requests, tokens = limits()
  advance(state.requests, requests, burst)
  advance(state.tokens, tokens, math.max(1, tokens * share))
end

function operations.observe(request_limit, requests_left, token_limit, tokens_left, at, requests, tokens)
  state.told.requests = tonumber(request_limit) or state.told.requests
  state.told.tokens = tonumber(token_limit) or state.told.tokens
  refresh()
  lower(state.requests, requests_left, at, requests)
  lower(state.tokens, tokens_left, at, tokens)
  serve('')
end

function operations.configure(before)
  if before ~= own_limits then redis.call('ZREM', asked, before) end
  refresh()
  serve('')
end

-- What changes something by an amount: a second sending of the same says nothing new.
function operations.once(id, what, ...)
  if redis.call('SET', grants .. id, '', 'NX', 'PX', math.ceil(2000 * lease)) then
    return operations[what](...)
  end
end

function operations.stats()
  return {number(state.requests.limit or math.huge), number(state.tokens.limit or math.huge),
    number(state.requests.used), number(state.tokens.used), redis.call('ZCARD', line),
    number(math.max(0, state.paused - now)), number(ramping() and pace() or math.huge)}
end

if own_limits ~= 'inf inf' then
  redis.call('ZADD', asked, now, own_limits)
  keep(asked, 4 * minute)
end
prune()
refresh()
local answer = operations[operation](unpack(ARGV, 8))
redis.call('SET', kept, cmsgpack.pack(state))
keep(kept, 4 * minute + math.max(0, state.paused - now))
return answer
"""
)
