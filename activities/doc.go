// Package activities does the work of a run, one file a stage: it reads shards,
// calls internal packages and writes shards.
//
// Every stage has two parts. Its plan says which tasks there are, what each reads
// and under which keys it writes; its task does one of them. A task that finds
// its outputs in the store has nothing to do, so attempts, runs and workers may
// repeat it at no cost. Answers of models are journaled as they come: what an
// attempt got done, the next one finds.
package activities
