package main

import (
	"time"

	"precept/schemas"
)

var began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// at is a time of the tests' clock.
func at(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }

var promptsDone = schemas.StageProgress{
	Stage: schemas.StagePrompts, Tasks: 3, Done: 3, Closed: true, Seconds: 2.1,
	Ledger: schemas.Ledger{Planned: 186, Kept: 182, Rejected: map[schemas.Reason]int64{schemas.ReasonDuplicate: 4}},
}

// synthesizing is a run in the middle of its synthesize stage.
func synthesizing(done int) *schemas.Progress {
	return &schemas.Progress{
		Run: "first", Name: "first", State: schemas.StateRunning, Stage: schemas.StageSynthesize, Started: began,
		Simulated: []string{"sim-teacher", "sim-judge"},
		Stages: []schemas.StageProgress{promptsDone, {
			Stage: schemas.StageSynthesize, Tasks: 8, Done: done,
			Ledger: schemas.Ledger{Kept: int64(40 * done), Rejected: map[schemas.Reason]int64{schemas.ReasonRefused: int64(done)}},
			Usage:  schemas.Usage{Paid: int64(41 * done), Cached: 3},
		}},
	}
}

// training is a run in its sft stage.
func training() *schemas.Progress {
	p := synthesizing(8)
	p.Stage = schemas.StageSFT
	p.Stages[1].Closed, p.Stages[1].Seconds = true, 72
	p.Stages = append(p.Stages, schemas.StageProgress{Stage: schemas.StageSFT, Tasks: 1})
	return p
}

func trainingTask(step int64) openTask {
	return openTask{ID: "9", Activity: "SFT", Taken: true, Attempt: 1, Progress: &schemas.TaskProgress{
		Done: step, Total: 60, Unit: "steps",
		Metrics: map[string]float64{"loss": 1.9342, "tokens_per_second": 71.6, "grad_norm": 3},
	}}
}

func rewardingTask(step int64) openTask {
	return openTask{ID: "9", Activity: "RL", Taken: true, Attempt: 1, Progress: &schemas.TaskProgress{
		Done: step, Total: 60, Unit: "steps",
		Metrics: map[string]float64{
			"loss": 0.01, "reward": 0.6125, "reward_std": 0.2, "reward/violence": 0.5, "reward/self-harm": 0.725,
			"rewards/compliance/mean": 0.5, "tokens_per_second": 71.6,
		},
	}}
}

func gated() *schemas.Progress {
	p := synthesizing(8)
	p.Stages[1].Closed, p.Stages[1].Seconds = true, 72
	p.State = schemas.StateWaiting
	p.Waiting = &schemas.Opening{
		ID: "dataset-1-0123456789ab", Gate: schemas.GateDataset, Number: 1, Digest: "0123456789abcdef",
		Question: "Is the dataset good to train on? 184 examples (kept 184).",
		Command:  `temporal workflow signal --workflow-id first --name approve --input '{"gate":"dataset","by":"YOUR NAME"}'`,
		Since:    at(80),
	}
	return p
}

func completed(state string) *end {
	return &end{Report: &schemas.RunReport{
		Run: "first", Name: "first", State: state, Simulated: []string{"sim-teacher"},
		Stages: []schemas.StageSum{
			{Stage: schemas.StagePrompts, Tasks: 3, Ledger: promptsDone.Ledger, Seconds: 2.1},
			{Stage: schemas.StageSynthesize, Tasks: 8, Ledger: schemas.Ledger{Kept: 320}, Usage: schemas.Usage{Paid: 328, Cached: 3, USD: 0.5}, Seconds: 72},
		},
		HTML: "runs/first/report/report.html", JSON: "runs/first/report/report.json",
	}}
}
