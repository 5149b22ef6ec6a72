package activities

import (
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing/fstest"

	"precept/examples"
	"precept/internal/config"
	"precept/internal/policy"
	"precept/internal/prompts"
	"precept/internal/shard"
	"precept/policies"
	"precept/schemas"
)

// ImportRequest asks for a run's inputs.
type ImportRequest struct {
	Run  schemas.RunID   `json:"run"`
	Spec schemas.RunSpec `json:"spec"`
}

// Import copies policy, prompts and suites into the store by digest; nothing
// reads the originals after it. Whatever is wrong with them, or with the spec's
// endpoints, ends the run here, before any model is called.
func (a *Activities) Import(ctx context.Context, req ImportRequest) (schemas.InputsRef, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	ref, err := a.importAll(ctx, req)
	return ref, fail(err)
}

func (a *Activities) importAll(ctx context.Context, req ImportRequest) (ref schemas.InputsRef, err error) {
	spec := req.Spec
	var inputs schemas.Inputs
	if inputs.Simulated, err = a.checkEndpoints(spec); err != nil {
		return ref, err
	}
	p, err := a.readPolicy(ctx, spec.Policy.Source)
	if err != nil {
		return ref, err
	}
	inputs.Policy, inputs.Categories = p.Digest(), p.Categories()
	if inputs.Prompts, err = a.importFiles(ctx, spec.Prompts.Imports, examples.Prompts, p, spec.Prompts.Limit, false); err != nil {
		return ref, err
	}
	if !spec.Evaluate.Skip {
		if inputs.Suites, err = a.importFiles(ctx, spec.Evaluate.Suites, examples.Suites, p, 0, true); err != nil {
			return ref, err
		}
	}
	for name, body := range p.Files() {
		object := schemas.PolicyPrefix(p.Digest()) + "/" + name
		if err := a.putOnce(ctx, object, []byte(body)); err != nil {
			return ref, err
		}
	}
	object := schemas.RunObject(req.Run, "inputs.json")
	if err := shard.PutJSON(ctx, a.store, object, inputs, shard.PutOptions{}); err != nil {
		return ref, err
	}
	ref = schemas.InputsRef{
		Object: object, Digest: schemas.DigestOf(inputs), Policy: inputs.Policy,
		PromptRows: schemas.Rows(inputs.Prompts), Sampled: map[schemas.Arm]int64{}, Simulated: inputs.Simulated,
	}
	for _, arm := range spec.Evaluate.Arms {
		for _, suite := range inputs.Suites {
			ref.Sampled[arm] += int64(armRows(spec, arm, int(suite.Rows)))
		}
	}
	return ref, nil
}

// checkEndpoints checks that the spec's endpoints are configured, and lists those
// that are simulations.
func (a *Activities) checkEndpoints(spec schemas.RunSpec) (simulated []string, err error) {
	roles := []struct {
		field, name string
		used        bool
	}{
		{"synthesize.teacher", spec.Synthesize.Teacher, true},
		{"filter.judge", spec.Filter.Judge, true},
		{"rl.judge", spec.RL.Judge, !spec.RL.Skip},
		{"evaluate.grader", spec.Evaluate.Grader, !spec.Evaluate.Skip},
	}
	for _, r := range roles {
		if !r.used {
			continue
		}
		e, err := a.endpoint(r.name)
		if err != nil {
			return nil, schemas.Errorf("check run spec", r.field, schemas.InvalidInput, "%w", err)
		}
		if e.Simulated && !slices.Contains(simulated, r.name) {
			simulated = append(simulated, r.name)
		}
	}
	slices.Sort(simulated)
	return simulated, nil
}

func (a *Activities) readPolicy(ctx context.Context, source string) (*policy.Policy, error) {
	if source == schemas.Builtin {
		return policy.Load(policies.FS)
	}
	if strings.HasPrefix(source, "s3://") {
		store, prefix, err := a.openURI(ctx, source)
		if err != nil {
			return nil, err
		}
		files := fstest.MapFS{}
		for info, err := range store.List(ctx, strings.TrimSuffix(prefix, "/")+"/") {
			if err != nil {
				return nil, err
			}
			raw, _, err := store.Get(ctx, info.Key)
			if err != nil {
				return nil, err
			}
			files[path.Base(info.Key)] = &fstest.MapFile{Data: raw}
		}
		return policy.Load(files)
	}
	if info, err := os.Stat(source); err != nil || !info.IsDir() {
		return nil, schemas.Errorf("read policy", source, schemas.InvalidInput, "there is no such folder on the worker").
			WithHint("Set policy.source to %q, a folder, or an s3:// prefix.", schemas.Builtin)
	}
	return policy.Load(os.DirFS(source))
}

// file is a file to import.
type file struct {
	name string
	raw  []byte
	in   schemas.Import
}

// importFiles reads, checks and copies files. Suites are written as shards of
// prompts at once.
func (a *Activities) importFiles(ctx context.Context, imports []schemas.Import, builtin fs.FS, p *policy.Policy, limit int, suite bool) (out []schemas.Input, err error) {
	for _, in := range imports {
		files, err := a.open(ctx, in, builtin)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			rows, err := readRows(f, p, limit, suite)
			if err != nil {
				return nil, err
			}
			input := schemas.Input{Name: f.name, Digest: schemas.DigestBytes(f.raw), Rows: int64(len(rows)), Import: f.in}
			input.Object = schemas.InputObject(input.Digest)
			if err := a.putOnce(ctx, input.Object, f.raw); err != nil {
				return nil, err
			}
			if suite {
				if f.in.Name != "" {
					input.Name = f.in.Name
				} else {
					input.Name = strings.TrimSuffix(path.Base(f.name), path.Ext(f.name))
				}
				l := lineage{
					Stage: schemas.StagePrompts, Kind: "suite", Version: promptsVersion,
					Inputs: []schemas.Digest{input.Digest}, Params: map[string]any{"import": prompts.Meaning(f.name, f.in), "name": input.Name},
				}
				ledger := schemas.Ledger{Planned: input.Rows, Kept: input.Rows}
				ref, err := shard.Write(ctx, a.store, schemas.StagePrompts, l.key(), rows, ledger, l)
				if err != nil {
					return nil, err
				}
				input.Shard = &ref
			}
			if suite && slices.ContainsFunc(out, func(in schemas.Input) bool { return in.Name == input.Name }) {
				return nil, schemas.Errorf("import suites", f.name, schemas.InvalidInput, "there is another suite named %q", input.Name).
					WithHint("Give each suite a name of its own: evaluate.suites[].name.")
			}
			out = append(out, input)
		}
	}
	return out, nil
}

// readRows reads a file's prompts and checks them against the policy.
func readRows(f file, p *policy.Policy, limit int, suite bool) ([]schemas.Prompt, error) {
	rows, err := prompts.Read(f.name, f.raw, f.in)
	if err != nil {
		return nil, err
	}
	if limit > 0 && len(rows) > limit {
		rows = rows[:limit]
	}
	for i := range rows {
		if !slices.Contains(p.Categories(), rows[i].Category) {
			return nil, schemas.Errorf("import prompts", f.name, schemas.InvalidInput,
				"row %d has category %q; the policy's are %v", i+1, rows[i].Category, p.Categories())
		}
		if !suite || rows[i].Expected != "" {
			continue
		}
		switch rows[i].Intent {
		case schemas.IntentHarmful:
			rows[i].Expected = schemas.ActionRefuse
		case schemas.IntentBenign:
			rows[i].Expected = schemas.ActionComply
		default:
			return nil, schemas.Errorf("import suite", f.name, schemas.InvalidInput,
				"row %d is borderline and has no label; give it a column \"expected\" (comply, safe-completion or refuse)", i+1)
		}
	}
	return rows, nil
}

// open reads the files that an import names.
func (a *Activities) open(ctx context.Context, in schemas.Import, builtin fs.FS) (out []file, err error) {
	const op = "import prompts"
	if in.Path == schemas.Builtin {
		names, err := fs.Glob(builtin, "*/*.jsonl")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			raw, err := fs.ReadFile(builtin, name)
			if err != nil {
				return nil, err
			}
			out = append(out, file{name, raw, in})
		}
		return out, nil
	}
	if strings.HasPrefix(in.Path, "s3://") {
		store, key, err := a.openURI(ctx, in.Path)
		if err != nil {
			return nil, err
		}
		raw, _, err := store.Get(ctx, key)
		if schemas.KindOf(err) == schemas.NotFound {
			return nil, schemas.E(op, in.Path, schemas.InvalidInput, err)
		}
		return []file{{in.Path, raw, in}}, err
	}
	names, err := filepath.Glob(in.Path)
	if err != nil || len(names) == 0 {
		return nil, schemas.Errorf(op, in.Path, schemas.InvalidInput, "there is no such file on the worker").
			WithHint("Use %q, a path as the worker sees it, or an s3:// URI.", schemas.Builtin)
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, schemas.E(op, name, schemas.InvalidInput, err)
		}
		out = append(out, file{name, raw, in})
	}
	return out, nil
}

// openURI opens the bucket of an s3:// URI by the worker's own S3 settings.
func (a *Activities) openURI(ctx context.Context, uri string) (shard.Store, string, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" || u.Path == "" {
		return nil, "", schemas.Errorf("open", uri, schemas.InvalidInput, "it is not of the form s3://bucket/key")
	}
	c := a.config
	c.Store = config.Store{Bucket: u.Host, Endpoint: c.Store.Endpoint, Region: c.Store.Region, PathStyle: c.Store.PathStyle}
	store, err := c.OpenStore(ctx)
	return store, strings.TrimPrefix(u.Path, "/"), err
}

// putOnce writes what is named by its content.
func (a *Activities) putOnce(ctx context.Context, object string, body []byte) error {
	_, err := a.store.Put(ctx, object, body, shard.PutOptions{IfNoneMatch: true})
	if schemas.KindOf(err) == schemas.Conflict {
		return nil
	}
	return err
}

// armRows is how many of a suite's n rows an arm is asked.
func armRows(spec schemas.RunSpec, arm schemas.Arm, n int) int {
	if most := spec.Evaluate.PolicyArmPrompts; arm == schemas.ArmBasePolicy && most >= 0 {
		return min(n, most)
	}
	return n
}

func (a *Activities) inputs(ctx context.Context, ref schemas.InputsRef) (schemas.Inputs, error) {
	var in schemas.Inputs
	err := shard.GetJSON(ctx, a.store, ref.Object, &in)
	if err == nil && schemas.DigestOf(in) != ref.Digest {
		err = schemas.E("read inputs", ref.Object, schemas.Conflict, fmt.Errorf("another run with this ID has replaced them"))
	}
	return in, err
}
