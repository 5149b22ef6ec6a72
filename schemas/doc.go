// Package schemas is Precept's vocabulary: the run specification, the rows, the
// manifests and the signals, with their JSON and Parquet names. It imports
// nothing else of Precept and does no I/O.
//
// One word for one thing:
//
//   - Policy: the safety specification, a folder of Markdown, one file a
//     category, and style.md, the principles of style that all share.
//   - Category policy: what teacher and judge read for one prompt: the full text
//     of its category, a short summary of every other, style.md.
//   - Prompt: messages, the last one the user's, with category, intent, language
//     and source.
//   - Label: what a judge says of a prompt's category and intent.
//   - Completion: one sample of a model for a prompt: chain of thought (CoT),
//     answer, finish reason.
//   - Vote: one judge call's opinion of one completion. Verdict: the votes folded
//     by their minimum, with how many votes it is over.
//   - Example: one SFT row, messages without the policy, target with CoT and
//     answer.
//   - Rollout: one RL sample with its reward.
//   - Shard: one Parquet object of rows of one kind. Manifest: the shards of one
//     stage with their row counts.
//   - Stage: one step of a run. Gate: a point where a run waits for a person.
//   - Ledger: what became of every planned unit of a stage.
//   - Arm: one model under evaluation.
//   - Dev split: prompts that are held out of training. Milestone: the weights of a
//     training job after a step, as a model of its own. Selection: which milestone goes
//     on, by its answers to the dev split.
//   - Role: a part that endpoints play in a run, such as the teacher's. Route: whom a
//     role's prompts of some intents and categories go to.
//   - Run: one Factory workflow execution chain under one workflow ID.
package schemas
