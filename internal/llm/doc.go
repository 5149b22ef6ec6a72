// Package llm asks language models behind OpenAI-compatible endpoints, and
// pays for no answer twice.
//
// Words used here:
//
//   - Endpoint: where a model is served, under which name, at what price and
//     within which limits.
//   - Request key: the SHA-256 of the model's identity, everything that is sent
//     and the sample number. URL and served name are no part of it, nor is the
//     limit of tokens, unless an answer was cut by it.
//   - Answer: what the model finally said. A refusal of the content, a text that
//     was cut by length and a request that exceeds the model's context are answers
//     too: asking again would not change them.
//   - Journal: where answers are kept under their request key. A request whose
//     key is there is not sent.
//   - Guard: the caller's check, made before each request is sent, that it may
//     still send (its lease is fresh, its grant not spent).
//   - Account condition: an error that is no row's fault and that no retry mends:
//     a refused key, a spent quota, a model that is gone. It closes the endpoint
//     for this process: callers get the same error, and nothing is sent but one
//     trial at a time, by a client that was guarded after the refusal (one for each
//     attempt of a task) or by Probe. A trial that is answered opens it.
//   - Replica: one of an endpoint's base URLs.
//   - Pace: when a request is sent, and to which replica.
//   - Allowance: requests and tokens a minute, as configured or as headers tell, and
//     of that this process's share.
//   - Ceiling: what a replica takes before it refuses, learned from refusals.
//   - Gradient: what a replica takes before it only queues, learned from latency.
//   - Breaker: what stops asking a replica that is out, but for single trials.
//   - Trouble: that an endpoint refuses the account, or has only failed for a while.
package llm
