package schemas

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"
)

// The layout of the store. Every key ends in a file name.

// RunKey is a run's ID as it stands in keys.
func RunKey(run RunID) string { return escape(string(run)) }

func escape(name string) string { return strings.ReplaceAll(url.PathEscape(name), ".", "%2E") }

// PlanObject is where a stage's plan lies.
func PlanObject(run RunID, stage Stage) string {
	return fmt.Sprintf("plans/%s/%s.json", RunKey(run), stage)
}

// RunObject is where a file particular to a run lies.
func RunObject(run RunID, name string) string {
	return fmt.Sprintf("runs/%s/%s", RunKey(run), name)
}

// ManifestObject is where a stage's manifest lies.
func ManifestObject(run RunID, stage Stage) string {
	return RunObject(run, fmt.Sprintf("manifest/%s.json", stage))
}

// PartialObject is where the record of a partial output lies.
func PartialObject(run RunID, stage Stage, key Key) string {
	return RunObject(run, fmt.Sprintf("partial/%s/%s.json", stage, key))
}

// SpentPrefix is the folder of what the tasks of a run's stage have spent.
func SpentPrefix(run RunID, stage Stage) string {
	return RunObject(run, fmt.Sprintf("spent/%s/", stage))
}

// SpentObject is where the record lies of what a task has spent in the execution of its
// stage that started at a time.
func SpentObject(run RunID, stage Stage, started time.Time, key Key) string {
	return SpentPrefix(run, stage) + started.UTC().Format(spentTime) + "/" + string(key) + ".json"
}

const spentTime = "20060102T150405.000000000Z"

// SpentStarted reads the time from the key of such a record.
func SpentStarted(object string) (time.Time, error) {
	return time.Parse(spentTime, path.Base(path.Dir(object)))
}

// BatchesObject is where the record of a task's batches lies: what a provider was given and
// has not answered yet.
func BatchesObject(task Key) string { return fmt.Sprintf("batches/%s.json", task) }

// JobObject is where a training job's result lies.
func JobObject(key Key) string { return fmt.Sprintf("jobs/%s.json", key) }

// InputObject is where an imported file lies.
func InputObject(d Digest) string { return "inputs/" + string(d) + ".bin" }

// PolicyPrefix is the folder of a stored policy.
func PolicyPrefix(d Digest) string { return "policies/" + string(d) }

// ModelPrefix is the folder of a stored model.
func ModelPrefix(d Digest) string { return "models/" + string(d) }

// CheckpointPrefix is the folder of a training job's checkpoint.
func CheckpointPrefix(job Key, step int) string {
	return fmt.Sprintf("checkpoints/%s/%08d", job, step)
}

// MilestonesFile is the file of a checkpoint that lists the milestones before it.
const MilestonesFile = "precept-milestones.json"

// LimitPrefix begins the keys of the leases on an endpoint's limits.
func LimitPrefix(endpoint string) string { return fmt.Sprintf("limits/%s/", escape(endpoint)) }

// LimitObject is where a worker's lease on an endpoint's limits lies.
func LimitObject(endpoint, worker string) string {
	return LimitPrefix(endpoint) + escape(worker) + ".json"
}
