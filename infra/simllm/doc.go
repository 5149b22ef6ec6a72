// Command simllm is a SIMULATED teacher and judge behind an OpenAI-compatible
// API. No language model runs in it: it reads the safety policy in a request's
// context, matches the user's words against the policy's rules with a
// hand-written lexicon, and fills sentences from templates.
//
// Words used here:
//
//   - Reading: what a request asks for (act, kind, affected, purpose), by
//     package reading.
//   - Rulebook: a category policy as rules, definitions and cases, by package
//     rulebook; the first rule that fits a reading decides.
//   - Flaw: a deliberate fault of one teacher sample (wrong decision, no
//     citation, no chain of thought, a lecture), so that a judge has something
//     to reject.
//   - Fault: a deliberate fault of the endpoint (429, 500, stall, cut, refusal
//     of the provider, garbage, a reply in another server's form), drawn from the request's body and from how
//     often it was asked, so that a retry can succeed.
//   - Label: the category and intent of a prompt, by the words that it shares with
//     the summaries of the policy and by what the lexicon knows of both.
//   - Brief: what a prompt is to be like that the teacher is asked to write.
//   - Ledger: what was asked, answered and would have been paid for.
//
// Answers are a function of the whole request body, seed included: the same
// bytes are answered with the same words. Every answer says that it is
// simulated: the header X-Simulated, the system fingerprint and the list of
// models.
package main
