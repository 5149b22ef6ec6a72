#!/bin/sh
# Creates the namespace and the search attributes that runs are found by. Safe to run
# again; TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE are the CLI's own variables.
set -eu

attempts=60
until temporal operator cluster health; do
	attempts=$((attempts - 1))
	if [ "$attempts" -eq 0 ]; then
		echo "Temporal at $TEMPORAL_ADDRESS does not become healthy" >&2
		exit 1
	fi
	sleep 2
done

if temporal operator namespace describe -n "$TEMPORAL_NAMESPACE" >/dev/null; then
	temporal operator namespace update -n "$TEMPORAL_NAMESPACE" --retention 30d
else
	temporal operator namespace create -n "$TEMPORAL_NAMESPACE" --retention 30d
fi

# A new namespace is known everywhere only after some seconds.
attempts=30
until existing=$(temporal operator search-attribute list -n "$TEMPORAL_NAMESPACE"); do
	attempts=$((attempts - 1))
	[ "$attempts" -gt 0 ] || exit 1
	sleep 2
done

for attribute in RunName:Keyword RunStage:Keyword RunState:Keyword PolicyDigest:Keyword BaseModel:Keyword SpentUSD:Double; do
	name=${attribute%:*}
	if ! printf '%s\n' "$existing" | grep -qw "$name"; then
		temporal operator search-attribute create -n "$TEMPORAL_NAMESPACE" --name "$name" --type "${attribute#*:}"
	fi
done
