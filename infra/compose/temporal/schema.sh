#!/bin/sh
# Creates Temporal's two databases and brings their schema up to date. Safe to run again.
set -eu

prepare() {
	database=$1 versions=/etc/temporal/schema/postgresql/v12/$2/versioned
	set -- --plugin postgres12 --ep "$POSTGRES_SEEDS" -u "$POSTGRES_USER" -p 5432 --db "$database"
	# A database that exists makes this fail, which is fine: where it fails for another
	# reason, the next command does too and says why.
	temporal-sql-tool "$@" create || true
	# This leaves a schema with a later version as it is.
	temporal-sql-tool "$@" setup-schema -v 0.0
	temporal-sql-tool "$@" update-schema -d "$versions"
}

prepare temporal temporal
prepare temporal_visibility visibility
