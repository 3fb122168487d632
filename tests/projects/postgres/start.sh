#!/bin/sh
# The database, and beside it a page with what is in it.
set -e
front.pl &
exec postgres -c listen_addresses='*'
