-- A vetter that is stopped keeps its session, and with it everybody else from vetting: Postgres
-- ends a session that asks nothing for this long. The pool resets it when it takes the connection
-- back.
SET idle_session_timeout = '5s'
