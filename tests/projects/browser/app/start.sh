#!/bin/sh
# The browser, and before it a server that asks it to render the page.
set -e
/headless-shell/run.sh --disable-gpu --user-data-dir=/tmp/profile about:blank &
exec /app/server.pl
