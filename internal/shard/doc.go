// Package shard keeps everything that Precept writes: it is the only package
// that talks to the object store.
//
//   - Store: a bucket's objects under one prefix, with conditional writes. S3 is
//     the real one, Memory its twin for tests; both pass shardtest.Store.
//   - Shard: one Parquet object of rows of one kind. Its key names everything
//     that its content follows from, so equal keys hold equal bytes: it is written
//     once, and who finds it there has nothing left to do.
//   - Folder: the files of a model, checkpoint or policy under one prefix. It is
//     complete when its index is there, which is written last.
//   - Journal: the answers that were paid for, in immutable segments, by request
//     key.
//   - Lease: the right to work on a key, held by one process at a time.
//
// Every object key ends in a file name, and none is another's folder: a gateway
// over a file system can't hold both.
package shard
