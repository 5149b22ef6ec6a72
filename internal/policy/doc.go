// Package policy reads a safety policy and shows it to a model.
//
// Words used here:
//
//   - Policy: a folder of Markdown, one file a category, and style.md, the
//     principles of style and helpfulness that all categories share.
//   - Rule: one line of a category's section Rules: an ID, a decision, what the
//     user asks for (acts) and what it is about (kinds).
//   - Case: an example request with its decision and the rule that decides it.
//   - Category policy: what a model reads for one prompt: the category's file, a
//     summary of every other category, style.md. Its digest stands in keys, so
//     that an edit of one category's body touches that category alone.
//   - Teacher's messages: the category policy, the instructions and a prompt, as
//     they are sent to the teacher and to a model that has the policy in context.
package policy
