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
//     a refused key, a spent quota, a model that is gone.
package llm
