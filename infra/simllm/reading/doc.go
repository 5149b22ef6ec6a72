// Package reading reads a request the way the policies ask for: by the user's
// words and a hand-written lexicon of everyday meanings, with no model and no
// hidden label.
//
//   - Act: what the user would hold in hand in the end (instructions, text, …).
//   - Kind: what the request is about (person, software, …).
//   - Affected: who would feel it.
//   - Harmful: the answer would itself help, urge or praise a harm.
package reading
