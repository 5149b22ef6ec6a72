package main

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"precept/internal/shard"
	"precept/schemas"
)

// archive is what the store says of one run, its rows apart.
type archive struct {
	run       schemas.RunID
	inputs    schemas.Inputs
	digest    schemas.Digest // of the inputs
	plans     map[schemas.Stage]storedPlan
	manifests map[schemas.Stage]*schemas.Manifest
	report    *schemas.RunReport
	// own is the plan written last of those that are not another run's: its spec is
	// the run's. It is nil as long as nothing is planned.
	own *storedPlan
}

// storedPlan is a plan as it lies in the store. Its digests are those of the bytes, so
// that they hold whatever version wrote them.
type storedPlan struct {
	digest     schemas.Digest
	specDigest schemas.Digest
	inputs     schemas.Digest
	spec       schemas.RunSpec
	simulated  []string
	tasks      []plannedTask
	written    time.Time
}

type plannedTask struct {
	Category schemas.Category
	Outputs  []schemas.Output
}

const opDiff = "compare run"

// openArchive reads what there is of a run. Stages that it has not come to are left out.
func openArchive(ctx context.Context, store shard.Store, run schemas.RunID) (*archive, error) {
	a := &archive{run: run, plans: map[schemas.Stage]storedPlan{}, manifests: map[schemas.Stage]*schemas.Manifest{}}
	raw, _, err := store.Get(ctx, schemas.RunObject(run, "inputs.json"))
	if schemas.KindOf(err) == schemas.NotFound {
		return nil, schemas.Errorf(opDiff, string(run), schemas.NotFound, "the store has no such run").
			WithHint("Check its ID, and that --config names its store; a run is there once its inputs are copied")
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &a.inputs); err != nil {
		return nil, broken(schemas.RunObject(run, "inputs.json"), err)
	}
	a.digest = schemas.DigestOf(json.RawMessage(raw))
	for _, stage := range schemas.Stages {
		if err := a.readStage(ctx, store, stage); err != nil {
			return nil, err
		}
	}
	var report schemas.RunReport
	switch err := shard.GetJSON(ctx, store, schemas.RunObject(run, "report/report.json"), &report); {
	case err == nil:
		a.report = &report
	case schemas.KindOf(err) != schemas.NotFound:
		return nil, err
	}
	return a, nil
}

func (a *archive) readStage(ctx context.Context, store shard.Store, stage schemas.Stage) error {
	var m schemas.Manifest
	switch err := shard.GetJSON(ctx, store, schemas.ManifestObject(a.run, stage), &m); {
	case err == nil:
		a.manifests[stage] = &m
	case schemas.KindOf(err) != schemas.NotFound:
		return err
	}
	object := schemas.PlanObject(a.run, stage)
	raw, info, err := store.Get(ctx, object)
	if schemas.KindOf(err) == schemas.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	plan, err := readPlan(raw)
	if err != nil {
		return broken(object, err)
	}
	plan.written = info.Modified
	a.plans[stage] = plan
	if a.taken(stage) == "" && (a.own == nil || !plan.written.Before(a.own.written)) {
		a.own = &plan
	}
	return nil
}

func readPlan(raw []byte) (p storedPlan, err error) {
	var parts struct {
		Spec, Inputs json.RawMessage
		Tasks        []plannedTask
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return p, err
	}
	var inputs schemas.Inputs
	if err := json.Unmarshal(parts.Inputs, &inputs); err != nil {
		return p, err
	}
	if err := json.Unmarshal(parts.Spec, &p.spec); err != nil {
		return p, err
	}
	p.spec = p.spec.WithDefaults()
	p.digest = schemas.DigestBytes(bytes.TrimSuffix(raw, []byte("\n")))
	p.specDigest, p.inputs = schemas.DigestOf(parts.Spec), schemas.DigestOf(parts.Inputs)
	p.simulated, p.tasks = inputs.Simulated, parts.Tasks
	return p, nil
}

func broken(object string, err error) error {
	return schemas.E("read", object, schemas.InvalidInput, err).WithHint("Use a starter of the worker's version")
}

// taken names the run that a stage's result is taken from; it is empty where the run made
// it itself.
func (a *archive) taken(stage schemas.Stage) schemas.RunID {
	if m := a.manifests[stage]; m != nil {
		return m.From
	}
	return ""
}

// name is the run's name for people.
func (a *archive) name() string {
	switch {
	case a.own != nil:
		return a.own.spec.Name
	case a.report != nil:
		return a.report.Name
	}
	return ""
}

// simulated names the endpoints that are simulations, of the run and of what it took
// from others.
func (a *archive) simulated() []string {
	names := slices.Clone(a.inputs.Simulated)
	if a.report != nil {
		names = append(names, a.report.Simulated...)
	}
	for _, p := range a.plans {
		names = append(names, p.simulated...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// side is what a comparison says of one of its runs alone.
type side struct {
	Run       schemas.RunID         `json:"run"`
	Name      string                `json:"name"`
	Planned   bool                  `json:"planned"` // else its spec is not known yet
	Reported  bool                  `json:"reported"`
	Simulated []string              `json:"simulated,omitempty"`
	Grader    schemas.ModelIdentity `json:"grader,omitempty"`
	SameJudge bool                  `json:"same_judge,omitempty"`
	// What doesn't fit together, where a run was started again under its ID.
	OtherSpecs  []otherSpec     `json:"other_specs,omitempty"`
	OtherInputs []schemas.Stage `json:"other_inputs,omitempty"`
	Replanned   []schemas.Stage `json:"replanned,omitempty"`
	Taken       []takenStages   `json:"taken,omitempty"`
}

// otherSpec is stages whose results came of another spec than the run's. Fields is where
// it differs; Known is false where that spec is no longer stored.
type otherSpec struct {
	Stages []schemas.Stage `json:"stages"`
	Known  bool            `json:"known"`
	Fields []change        `json:"fields,omitempty"` // from the run's spec to this one
}

type takenStages struct {
	From   schemas.RunID   `json:"from"`
	Stages []schemas.Stage `json:"stages"`
}

func (a *archive) side() (side, error) {
	s := side{Run: a.run, Name: a.name(), Planned: a.own != nil, Reported: a.report != nil, Simulated: a.simulated()}
	if a.report != nil {
		s.Grader, s.SameJudge = a.report.Evaluation.Grader, a.report.Evaluation.SameJudge
	}
	for _, stage := range schemas.Stages {
		if from := a.taken(stage); from != "" {
			i := slices.IndexFunc(s.Taken, func(t takenStages) bool { return t.From == from })
			if i < 0 {
				i, s.Taken = len(s.Taken), append(s.Taken, takenStages{From: from})
			}
			s.Taken[i].Stages = append(s.Taken[i].Stages, stage)
			continue
		}
		plan, planned := a.plans[stage]
		if m := a.manifests[stage]; m != nil && planned && m.Plan.Digest != plan.digest {
			s.Replanned = append(s.Replanned, stage)
		}
		if planned && plan.inputs != a.digest {
			s.OtherInputs = append(s.OtherInputs, stage)
		}
	}
	var err error
	s.OtherSpecs, err = a.otherSpecs()
	return s, err
}

// otherSpecs groups the stages, and the report, that are not of the run's spec.
func (a *archive) otherSpecs() (out []otherSpec, err error) {
	if a.own == nil {
		return nil, nil
	}
	specs := map[schemas.Digest]schemas.RunSpec{}
	for _, p := range a.plans {
		specs[p.specDigest] = p.spec
	}
	place := map[schemas.Digest]int{}
	for _, stage := range schemas.Stages {
		digest := a.plans[stage].specDigest
		switch m := a.manifests[stage]; {
		case a.taken(stage) != "":
			continue
		case m != nil:
			digest = m.Spec // whatever was planned since
		case stage == schemas.StageReport && a.report != nil:
			digest = a.report.Spec
		}
		if digest == "" || digest == a.own.specDigest {
			continue
		}
		i, seen := place[digest]
		if !seen {
			spec, known := specs[digest]
			other := otherSpec{Known: known}
			if known {
				if other.Fields, err = specChanges(a.own.spec, spec); err != nil {
					return nil, err
				}
				if len(other.Fields) == 0 {
					continue // written otherwise, but it says the same
				}
			}
			i, out = len(out), append(out, other)
			place[digest] = i
		}
		out[i].Stages = append(out[i].Stages, stage)
	}
	return out, nil
}

// comparison is what two runs differ in, as far as the store tells.
type comparison struct {
	A        side          `json:"a"`
	B        side          `json:"b"`
	Spec     []change      `json:"spec"`
	Inputs   []change      `json:"inputs"`
	Stages   []stageDiff   `json:"stages"`
	Rows     *rowDiff      `json:"rows"` // nil where a run has no SFT set
	Measures []measureDiff `json:"measures"`
	// OtherSuites are those of one name whose prompts differ.
	OtherSuites []string `json:"other_suites,omitempty"`
}

// compare compares two runs; list bounds how many prompt IDs of each class are kept.
func compare(ctx context.Context, store shard.Store, runA, runB schemas.RunID, list int) (c comparison, err error) {
	a, err := openArchive(ctx, store, runA)
	if err != nil {
		return c, err
	}
	b, err := openArchive(ctx, store, runB)
	if err != nil {
		return c, err
	}
	if c.A, err = a.side(); err != nil {
		return c, err
	}
	if c.B, err = b.side(); err != nil {
		return c, err
	}
	if a.own != nil && b.own != nil {
		if c.Spec, err = specChanges(a.own.spec, b.own.spec); err != nil {
			return c, err
		}
	}
	c.Inputs = inputChanges(a.inputs, b.inputs)
	c.Stages = compareStages(a, b)
	c.Measures = compareMeasures(a.report, b.report)
	c.OtherSuites = otherSuites(a.inputs.Suites, b.inputs.Suites)
	c.Rows, err = compareRows(ctx, store, a, b, list)
	return c, err
}

// change is one thing that differs. A side without it is nil.
type change struct {
	Field string `json:"field"`
	A     any    `json:"a"`
	B     any    `json:"b"`
}

// specChanges lists the fields that differ, by their dotted JSON path, with defaults
// filled in. Where the JSON Schema lies is for editors and doesn't count.
func specChanges(a, b schemas.RunSpec) ([]change, error) {
	before, err := specFields(a)
	if err != nil {
		return nil, err
	}
	after, err := specFields(b)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(before)
	maps.Copy(all, after)
	changes := []change{}
	for _, path := range slices.Sorted(maps.Keys(all)) {
		c := change{path, before[path], after[path]}
		// Zero values are left out of the JSON, but not those of a list's element
		// that isn't there.
		switch {
		case strings.Contains(path, "["):
		case c.A == nil:
			c.A = zeroLike(c.B)
		case c.B == nil:
			c.B = zeroLike(c.A)
		}
		if !reflect.DeepEqual(c.A, c.B) {
			changes = append(changes, c)
		}
	}
	return changes, nil
}

func specFields(s schemas.RunSpec) (map[string]any, error) {
	s = s.WithDefaults()
	s.Schema = ""
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, schemas.E("compare specs", s.Name, schemas.Internal, err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, schemas.E("compare specs", s.Name, schemas.Internal, err)
	}
	fields := map[string]any{}
	flatten(fields, "", v)
	return fields, nil
}

// flatten adds v's leaves by their paths. A list of plain values is one leaf.
func flatten(fields map[string]any, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			flatten(fields, strings.TrimPrefix(path+"."+name, "."), value)
		}
	case []any:
		if !slices.ContainsFunc(v, func(e any) bool { _, deep := e.(map[string]any); return deep }) {
			fields[path] = v
			return
		}
		for i, value := range v {
			flatten(fields, path+"["+strconv.Itoa(i)+"]", value)
		}
	default:
		fields[path] = v
	}
}

// zeroLike is the zero value of v's type, where it says something.
func zeroLike(v any) any {
	switch v.(type) {
	case json.Number:
		return json.Number("0")
	case bool:
		return false
	}
	return nil
}

const inputPolicy = "policy"

// inputChanges lists the policy and the files whose content differs, by digest. A file
// that has moved is the same.
func inputChanges(a, b schemas.Inputs) []change {
	changes := []change{}
	if a.Policy != b.Policy {
		changes = append(changes, change{inputPolicy, a.Policy, b.Policy})
	}
	for _, group := range []struct {
		name string
		a, b []schemas.Input
	}{{"prompts", a.Prompts, b.Prompts}, {"suite", a.Suites, b.Suites}, {"data set", a.Dataset, b.Dataset}} {
		left := without(group.a, group.b)
		right := without(group.b, group.a)
		for _, in := range left {
			c := change{Field: group.name + " " + in.Name, A: in.Digest}
			if i := slices.IndexFunc(right, func(o schemas.Input) bool { return o.Name == in.Name }); i >= 0 {
				c.B = right[i].Digest
				right = slices.Delete(right, i, i+1)
			}
			changes = append(changes, c)
		}
		for _, in := range right {
			changes = append(changes, change{Field: group.name + " " + in.Name, B: in.Digest})
		}
	}
	return changes
}

// without lists those of inputs whose content is not among others.
func without(inputs, others []schemas.Input) (out []schemas.Input) {
	for _, in := range inputs {
		if !slices.ContainsFunc(others, func(o schemas.Input) bool { return o.Digest == in.Digest }) {
			out = append(out, in)
		}
	}
	return out
}

// otherSuites names the suites of both runs whose prompts are not the same, be it by
// their file or by how it was read.
func otherSuites(a, b []schemas.Input) (names []string) {
	for _, x := range a {
		for _, y := range b {
			if x.Name == y.Name && x.Shard != nil && y.Shard != nil && x.Shard.Digest != y.Shard.Digest {
				names = append(names, x.Name)
			}
		}
	}
	return names
}

// The states of a stage in a run.
const (
	stageEnded   = "ended"
	stageOpen    = "open"     // planned, not ended
	stageNotYet  = "not yet"  // the run has not come so far
	stageLeftOut = "left out" // by the run's spec
)

// passage is how one run came through a stage.
type passage struct {
	State  string         `json:"state"`
	Ledger schemas.Ledger `json:"ledger"`
	Usage  schemas.Usage  `json:"usage"`
	Shards int            `json:"shards"`
	Model  schemas.Digest `json:"model,omitempty"`
}

func (a *archive) passage(stage schemas.Stage) passage {
	if m := a.manifests[stage]; m != nil {
		p := passage{State: stageEnded, Ledger: m.Ledger, Usage: m.Usage}
		for _, refs := range m.Outputs {
			p.Shards += len(refs)
		}
		if m.Model != nil {
			p.Model = m.Model.Digest
		}
		return p
	}
	if _, planned := a.plans[stage]; planned {
		return passage{State: stageOpen}
	}
	if a.own != nil && !a.own.spec.Passes(stage) {
		return passage{State: stageLeftOut}
	}
	return passage{State: stageNotYet}
}

// stageDiff is a stage in both runs. Shared counts the shards that both have; Reasons is
// where what became of the rest differs.
type stageDiff struct {
	Stage   schemas.Stage `json:"stage"`
	A       passage       `json:"a"`
	B       passage       `json:"b"`
	Shared  int           `json:"shared"`
	Reasons []reasonDiff  `json:"reasons,omitempty"`
}

// ended reports whether both runs have passed the stage.
func (d stageDiff) ended() bool { return d.A.State == stageEnded && d.B.State == stageEnded }

// reasonDiff counts the units rejected, or failed, for one reason.
type reasonDiff struct {
	Reason schemas.Reason `json:"reason"`
	Failed bool           `json:"failed,omitempty"`
	A      int64          `json:"a"`
	B      int64          `json:"b"`
}

// compareStages lists the stages that a run has at least begun.
func compareStages(a, b *archive) []stageDiff {
	out := []stageDiff{}
	for _, stage := range schemas.Stages {
		d := stageDiff{Stage: stage, A: a.passage(stage), B: b.passage(stage)}
		begun := func(p passage) bool { return p.State == stageEnded || p.State == stageOpen }
		if !begun(d.A) && !begun(d.B) {
			continue
		}
		if d.ended() {
			theirs := digests(b.manifests[stage])
			for digest, n := range digests(a.manifests[stage]) {
				d.Shared += min(n, theirs[digest])
			}
			checks := func(l schemas.Ledger) map[schemas.Reason]int64 {
				return map[schemas.Reason]int64{schemas.ReasonCheck: l.Checked}
			}
			d.Reasons = slices.Concat(reasonDiffs(checks(d.A.Ledger), checks(d.B.Ledger), false),
				reasonDiffs(d.A.Ledger.Rejected, d.B.Ledger.Rejected, false), reasonDiffs(d.A.Ledger.Failed, d.B.Ledger.Failed, true))
		}
		out = append(out, d)
	}
	return out
}

// digests counts a stage's shards by content.
func digests(m *schemas.Manifest) map[schemas.Digest]int {
	counts := map[schemas.Digest]int{}
	for _, refs := range m.Outputs {
		for _, ref := range refs {
			counts[ref.Digest]++
		}
	}
	return counts
}

func reasonDiffs(a, b map[schemas.Reason]int64, failed bool) (out []reasonDiff) {
	all := map[schemas.Reason]int64{}
	maps.Copy(all, a)
	maps.Copy(all, b)
	for _, r := range slices.Sorted(maps.Keys(all)) {
		if a[r] != b[r] {
			out = append(out, reasonDiff{r, failed, a[r], b[r]})
		}
	}
	return out
}

// measureDiff is one figure of both runs; a run that doesn't have it is nil. Apart says
// that the intervals don't overlap.
type measureDiff struct {
	Name       string           `json:"name"`
	Suite      string           `json:"suite"`
	Intent     schemas.Intent   `json:"intent,omitempty"`
	Arm        schemas.Arm      `json:"arm"`
	A          *schemas.Measure `json:"a"`
	B          *schemas.Measure `json:"b"`
	Difference *float64         `json:"difference"`
	Apart      bool             `json:"apart"`
}

// compareMeasures lists the figures in the order of A's, and then those that only B has.
func compareMeasures(a, b *schemas.RunReport) []measureDiff {
	type key struct {
		name, suite string
		intent      schemas.Intent
		arm         schemas.Arm
	}
	out := []measureDiff{}
	place := map[key]int{}
	add := func(r *schemas.RunReport, side func(*measureDiff) **schemas.Measure) {
		if r == nil {
			return
		}
		for _, m := range r.Evaluation.Measures {
			k := key{m.Name, m.Suite, m.Intent, m.Arm}
			i, ok := place[k]
			if !ok {
				i, out = len(out), append(out, measureDiff{Name: m.Name, Suite: m.Suite, Intent: m.Intent, Arm: m.Arm})
				place[k] = i
			}
			*side(&out[i]) = &m
		}
	}
	add(a, func(d *measureDiff) **schemas.Measure { return &d.A })
	add(b, func(d *measureDiff) **schemas.Measure { return &d.B })
	for i, d := range out {
		if d.A != nil && d.B != nil {
			difference := d.B.Value - d.A.Value
			out[i].Difference = &difference
			out[i].Apart = d.A.High < d.B.Low || d.B.High < d.A.Low
		}
	}
	return out
}
