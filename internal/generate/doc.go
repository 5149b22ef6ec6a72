// Package generate asks a teacher for prompts that users of a category might write.
//
// Words used here:
//
//   - Target: the category and the intent that a prompt is asked for.
//   - Brief: what one prompt is to be like: the case of the policy that it starts
//     from, the persona who writes it, its form, length, style and language.
//   - Space: all briefs of a target, in an order that follows from a seed. Every
//     brief comes once before one comes again, and neighbours differ in most
//     parts, so that the first few are as diverse as all of them.
//   - Round: how often the space has been gone through.
package generate
