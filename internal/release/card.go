package release

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"precept/internal/serving"
	"precept/internal/shard"
	"precept/schemas"
)

// Card is what is known of a model: what it was made of, how, what was measured of it, and
// how to serve it.
type Card struct {
	Digest schemas.Digest `json:"digest"`
	Run    schemas.RunID  `json:"run,omitempty"`
	Name   string         `json:"name"` // the run's, for people
	Arm    schemas.Arm    `json:"arm,omitempty"`
	Base   Origin         `json:"base,omitzero"`
	Policy schemas.Digest `json:"policy,omitempty"`
	Data   *Dataset       `json:"data,omitempty"`
	// Trained are the stages that made it, in their order.
	Trained   []Training `json:"trained,omitempty"`
	Simulated []string   `json:"simulated,omitempty"`
	// Evaluation is nil where there is none yet.
	Evaluation *Evaluation `json:"evaluation,omitempty"`
	Parser     string      `json:"reasoning_parser,omitempty"`
}

// Origin is the model that training began with.
type Origin struct {
	Name   string         `json:"name"`
	Commit string         `json:"commit,omitempty"` // of a hub
	Digest schemas.Digest `json:"digest"`
}

// Dataset is what a run trains on.
type Dataset struct {
	Digest    schemas.Digest          `json:"digest"`
	Rows      int64                   `json:"rows"`
	Teachers  []schemas.ModelIdentity `json:"teachers,omitempty"`
	Judges    []schemas.ModelIdentity `json:"judges,omitempty"`
	Votes     int                     `json:"votes,omitempty"`
	Threshold float64                 `json:"threshold,omitempty"`
}

// Training is a stage that trained.
type Training struct {
	Stage    schemas.Stage           `json:"stage"`
	Settings json.RawMessage         `json:"settings"`
	Seed     int64                   `json:"seed"`
	Rewards  []schemas.ModelIdentity `json:"rewards,omitempty"` // the judges of rl
	Model    schemas.Digest          `json:"model"`
	Step     int                     `json:"step,omitempty"` // of the milestone that was chosen
	Code     string                  `json:"code"`
	// Own says that nothing was trained: the model is one of one's own.
	Own bool `json:"own,omitempty"`
}

// Evaluation is the figures of the model, and of its base beside it.
type Evaluation struct {
	Grader    schemas.ModelIdentity `json:"grader"`
	SameJudge bool                  `json:"same_judge"`
	Measures  []schemas.Measure     `json:"measures"`
}

// CardOf gathers what the store knows of a model. Of one that was named by its digest, a run is
// looked for that made it.
func CardOf(ctx context.Context, s shard.Store, m Model) (Card, error) {
	if m.Run == "" {
		var err error
		if m, err = Maker(ctx, s, m); err != nil {
			return Card{}, err
		}
	}
	c := Card{Digest: m.Digest, Run: m.Run, Arm: m.Arm, Name: m.Name()}
	if m.Run == "" {
		return c, nil
	}
	base, err := baseOf(ctx, s, m.Run)
	if err != nil && schemas.KindOf(err) != schemas.NotFound {
		return c, err
	}
	c.Base = Origin{base.Base, base.Commit, base.Digest}
	if m.Arm != schemas.ArmBase {
		if err := c.made(ctx, s); err != nil {
			return c, err
		}
	}
	return c, c.evaluated(ctx, s)
}

// Maker finds the first run, by its ID, that made a model. Where there is none, m is as it was.
func Maker(ctx context.Context, s shard.Store, m Model) (Model, error) {
	var keys []string
	for info, err := range s.List(ctx, "runs/") {
		if err != nil {
			return m, err
		}
		if strings.HasSuffix(info.Key, "/manifest/sft.json") || strings.HasSuffix(info.Key, "/manifest/rl.json") {
			keys = append(keys, info.Key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		var manifest schemas.Manifest
		if err := shard.GetJSON(ctx, s, key, &manifest); err != nil {
			return m, err
		}
		milestone := func(x schemas.Milestone) bool { return x.Model.Digest == m.Digest }
		if manifest.Model != nil && manifest.Model.Digest == m.Digest || slices.ContainsFunc(manifest.Milestones, milestone) {
			return Model{Digest: m.Digest, Run: manifest.Run, Arm: schemas.Arm(manifest.Stage)}, nil
		}
	}
	return m, nil
}

// made tells of the stages that the model follows from.
func (c *Card) made(ctx context.Context, s shard.Store) error {
	for _, stage := range []schemas.Stage{schemas.StageSynthesize, schemas.StageFilter, schemas.StageCurate, schemas.StageSFT, schemas.StageRL} {
		if stage == schemas.StageRL && c.Arm != schemas.ArmRL {
			break
		}
		var m schemas.Manifest
		var plan schemas.Plan
		var err error
		if stage == schemas.StageSFT || stage == schemas.StageRL {
			m, err = trained(ctx, s, c.Run, stage)
		} else {
			err = shard.GetJSON(ctx, s, schemas.ManifestObject(c.Run, stage), &m)
		}
		if schemas.KindOf(err) == schemas.NotFound {
			continue // a run may begin behind it, or skip it
		}
		if err == nil {
			err = shard.GetJSON(ctx, s, m.Plan.Object, &plan)
		}
		if err != nil {
			return err
		}
		c.Name, c.Policy = plan.Spec.Name, plan.Inputs.Policy
		c.Simulated = append(c.Simulated, plan.Inputs.Simulated...)
		if c.Data == nil {
			c.Data = &Dataset{}
		}
		switch stage {
		case schemas.StageSynthesize:
			c.Data.Teachers = asked(plan)
		case schemas.StageFilter:
			c.Data.Judges, c.Data.Votes, c.Data.Threshold = asked(plan), plan.Spec.Filter.Votes, *plan.Spec.WithDefaults().Filter.Threshold
		case schemas.StageCurate:
			c.Data.Digest, c.Data.Rows = m.Digest(), m.Ledger.Kept
		default:
			t := Training{Stage: stage, Seed: plan.Spec.Seed, Code: m.Code, Rewards: asked(plan)}
			var settings any = plan.Spec.SFT
			if stage == schemas.StageRL {
				settings = plan.Spec.RL
			}
			if t.Settings, err = json.MarshalIndent(settings, "", "  "); err != nil {
				return err
			}
			if m.Model != nil {
				t.Model = m.Model.Digest
			}
			if m.Selection != nil {
				t.Step = m.Selection.Step
			}
			t.Own = len(plan.Tasks) > 0 && len(plan.Tasks[0].Outputs) == 0
			c.Trained = append(c.Trained, t)
		}
	}
	slices.Sort(c.Simulated)
	c.Simulated = slices.Compact(c.Simulated)
	return nil
}

// asked are the hosted models that the rows of a stage follow from, as its tasks' keys have
// them.
func asked(plan schemas.Plan) (ids []schemas.ModelIdentity) {
	for _, t := range plan.Tasks {
		var l struct {
			Models []struct {
				Identity schemas.ModelIdentity `json:"identity"`
			} `json:"models"`
		}
		if json.Unmarshal(t.Lineage, &l) != nil {
			continue // a task that was taken over has none
		}
		for _, m := range l.Models {
			if !isDigest(string(m.Identity)) && !slices.Contains(ids, m.Identity) {
				ids = append(ids, m.Identity)
			}
		}
	}
	return ids
}

// evaluated reads the figures from the run's report, as far as they are of these weights.
func (c *Card) evaluated(ctx context.Context, s shard.Store) error {
	var r schemas.RunReport
	err := shard.GetJSON(ctx, s, schemas.RunObject(c.Run, "report/report.json"), &r)
	if schemas.KindOf(err) == schemas.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	of := map[schemas.Arm]schemas.Digest{}
	for _, m := range r.Models {
		of[m.Arm] = m.Model.Digest
	}
	if of[c.Arm] != c.Digest || len(r.Evaluation.Measures) == 0 {
		return nil // it is of an earlier model
	}
	e := Evaluation{Grader: r.Evaluation.Grader, SameJudge: r.Evaluation.SameJudge}
	for _, m := range r.Evaluation.Measures {
		if m.Arm == c.Arm || m.Arm == schemas.ArmBase && of[schemas.ArmBase] == c.Base.Digest {
			e.Measures = append(e.Measures, m)
		}
	}
	c.Evaluation = &e
	return nil
}

// In completes the card with what the model's folder says, and writes it as the folder's
// README.md in the form of the Hugging Face Hub.
func (c Card) In(folder string) (Card, []byte, error) {
	if (Model{Arm: c.Arm}).Thinks() {
		// A folder that vllm can't load either has none.
		c.Parser, _ = serving.Parser(folder)
	}
	var b bytes.Buffer
	if err := cardTemplate.Execute(&b, c); err != nil {
		return c, nil, schemas.E("write card", c.Name, schemas.Internal, err)
	}
	return c, b.Bytes(), nil
}

// Put writes the cards of a run's models into the store, beside its report: one an arm.
func Put(ctx context.Context, s shard.Store, run schemas.RunID) error {
	for _, arm := range []schemas.Arm{schemas.ArmSFT, schemas.ArmRL} {
		m, err := ofArm(ctx, s, run, arm)
		if schemas.KindOf(err) == schemas.NotFound {
			continue
		}
		if err == nil {
			err = putCard(ctx, s, m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func putCard(ctx context.Context, s shard.Store, m Model) error {
	c, err := CardOf(ctx, s, m)
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "card-*")
	if err != nil {
		return schemas.E("write card", m.Name(), schemas.Unavailable, err)
	}
	defer os.RemoveAll(folder)
	for _, name := range []string{"config.json", "tokenizer.json"} { // what the parser follows from
		_, err := s.GetFile(ctx, schemas.ModelPrefix(m.Digest)+"/"+name, filepath.Join(folder, name))
		if err != nil && schemas.KindOf(err) != schemas.NotFound {
			return err
		}
	}
	_, text, err := c.In(folder)
	if err != nil {
		return err
	}
	_, err = s.Put(ctx, schemas.RunObject(m.Run, "report/card-"+string(m.Arm)+".md"), text, shard.PutOptions{ContentType: "text/markdown; charset=utf-8"})
	return err
}

// HubBase is the base's name, where it is one of the Hub's.
func (c Card) HubBase() string {
	name, _, _ := strings.Cut(c.Base.Name, "@")
	if c.Arm != schemas.ArmBase && hubName.MatchString(name) {
		return name
	}
	return ""
}

var hubName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$`)

// VLLM and Transformers are the command lines that serve the folder they are called in.
func (c Card) VLLM() string {
	return serving.CommandLine(serving.VLLM, c.Digest.Short(), c.Parser)
}

func (c Card) Transformers() string { return serving.CommandLine(serving.Transformers, "", "") }

//go:embed card.md.tmpl
var cardText string

var cardTemplate = template.Must(template.New("card").Funcs(template.FuncMap{
	"title": func(s string) string { return strings.Join(strings.Fields(s), " ") },
}).Parse(cardText))
