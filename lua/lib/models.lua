-- A step: ends the script where the account has a list of models and `model` is not on it. Names
-- stand there with a space between two, and have none in them. To name no model is not on a list.
local models = fields.models
if models and not (model and string.find(' ' .. models .. ' ', ' ' .. model .. ' ', 1, true)) then
  return {LIMIT, LIMIT_MODELS}
end
