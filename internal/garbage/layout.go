package garbage

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"precept/internal/shard"
	"precept/schemas"
)

// Kind is a sort of objects, the first part of their keys.
type Kind string

// The kinds, in the order in which they are removed: what others are found by goes
// before what it leads to, so that an interruption leaves nothing that leads nowhere.
const (
	Runs        Kind = "runs"
	Plans       Kind = "plans"
	Jobs        Kind = "jobs"
	Models      Kind = "models"
	Checkpoints Kind = "checkpoints"
	Shards      Kind = "shards"
	Inputs      Kind = "inputs"
	Policies    Kind = "policies"
	Batches     Kind = "batches" // what tasks have under way at providers
	Leases      Kind = "leases"
	Limits      Kind = "limits" // leases on what endpoints allow
	Probes      Kind = "probes" // what endpoints were found fit for
	Journal     Kind = "journal"
	Served      Kind = "served" // what has answered under a model's identity
)

var kinds = []Kind{Runs, Plans, Jobs, Models, Checkpoints, Shards, Inputs, Policies, Batches, Leases, Limits, Probes, Journal, Served}

// place is what a key says of its object.
type place struct {
	kind  Kind
	stage schemas.Stage // of a shard
	run   string        // whose record or plan it is, as in keys
	// name is what roots refer to: the key, or the folder of many objects.
	name string
	// folder is what the object is removed with, where that is a folder.
	folder string
	at     time.Time // of a journal's segment
}

// locate reads a key. It is not ok where the key is not of Precept's layout.
func locate(key string) (p place, ok bool) {
	parts := strings.Split(key, "/")
	p = place{kind: Kind(parts[0]), name: key}
	switch n := len(parts); p.kind {
	case Runs:
		if ok = n > 2; ok {
			p.run = parts[1]
		}
	case Plans:
		if ok = n == 3 && strings.HasSuffix(key, ".json"); ok {
			p.run = parts[1]
		}
	case Jobs, Batches, Probes:
		ok = n == 2 && isDigest(parts[1], ".json")
	case Shards:
		if ok = n == 3 && slices.Contains(schemas.Stages, schemas.Stage(parts[1])) && isDigest(parts[2], ".parquet"); ok {
			p.stage = schemas.Stage(parts[1])
		}
	case Inputs:
		ok = n == 2 && isDigest(parts[1], ".bin")
	case Models, Policies:
		ok = n > 2 && isDigest(parts[1], "")
		p.name = strings.Join(parts[:min(n, 2)], "/")
		p.folder = p.name
	case Checkpoints:
		ok = n > 3 && isDigest(parts[1], "") && isNumber(parts[2])
		p.name = strings.Join(parts[:min(n, 2)], "/")
		p.folder = strings.Join(parts[:min(n, 3)], "/")
	case Leases:
		ok = n == 2 && (isDigest(parts[1], ".json") || parts[1] == lease+".json")
	case Limits:
		ok = n == 3 && strings.HasSuffix(key, ".json")
	case Served:
		ok = n == 2 && isDigest(parts[1], ".json")
	case Journal:
		p.at, ok = shard.SegmentTime(key)
	}
	return p, ok
}

func isDigest(name, suffix string) bool {
	digest, ok := strings.CutSuffix(name, suffix)
	return ok && len(digest) == 64 && strings.Trim(digest, "0123456789abcdef") == ""
}

func isNumber(name string) bool {
	_, err := strconv.ParseUint(name, 10, 64)
	return err == nil
}
