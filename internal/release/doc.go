// Package release gives stored models to people: it finds them, fetches them, and writes
// their cards.
//
//   - Model: a stored model folder, by its digest, and the run and arm that it is of, where those are known.
//   - Pull: a fetch of the whole folder, verified. What is neither safetensors nor JSON nor text
//     is refused, so that nothing that is pulled can hold code.
//   - Card: what the folder's README.md says: what the model was made of and how, what was
//     measured of it, and how to serve it.
//
// A card is no part of a model: it follows from a run's manifests, and a model's digest from its
// weights alone. It is written beside them when they are pulled.
package release
