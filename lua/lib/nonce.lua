-- The generation that loaded this script, written into its text by the worker. A Redis whose meta
-- names another one has been vetted anew, or never: nothing this text says about it is true.
local NONCE = '@NONCE@'

-- A clock that is further than this behind what it has been is not believed.
local CLOCK_SLACK_MS = 1000
