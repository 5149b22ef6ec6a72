package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"precept/schemas"
)

// retry is how often a task is tried before the run waits at the failure gate.
// Objects and the request cache keep what an attempt got done.
func retry(attempts int32) *temporal.RetryPolicy {
	return &temporal.RetryPolicy{
		InitialInterval:        time.Second,
		BackoffCoefficient:     2,
		MaximumInterval:        30 * time.Second,
		MaximumAttempts:        attempts,
		NonRetryableErrorTypes: []string{string(schemas.InvalidInput)},
	}
}

// light is for copying, closing and recording on the factory queue.
func light(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:           schemas.QueueFactory,
		StartToCloseTimeout: time.Hour,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         retry(5),
		Summary:             summary,
	})
}

// planning runs where the stage's tasks run: only a gpu worker can tell which
// weights a base model has.
func planning(ctx workflow.Context, stage schemas.Stage, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:           stage.Queue(),
		StartToCloseTimeout: time.Hour,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         retry(5),
		Summary:             summary,
	})
}

// heartbeat bounds how long a dead worker goes unnoticed.
const heartbeat = 20 * time.Second

// working runs one task of a stage.
func working(ctx workflow.Context, stage schemas.Stage, index, tasks int) workflow.Context {
	options := workflow.ActivityOptions{
		TaskQueue:           stage.Queue(),
		StartToCloseTimeout: 12 * time.Hour,
		HeartbeatTimeout:    heartbeat,
		// A worker that stops or dies takes an attempt, too.
		RetryPolicy:         retry(10),
		WaitForCancellation: true,
		Summary:             fmt.Sprintf("%s %d/%d", stage, index+1, tasks),
	}
	if stage.Queue() == schemas.QueueGPU {
		options.StartToCloseTimeout = 14 * 24 * time.Hour
	}
	return workflow.WithActivityOptions(ctx, options)
}
