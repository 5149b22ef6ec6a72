// Package shardtest gives tests an object store: S3 is a real server on a
// temporary folder, Aging one in memory whose objects can look old, and Store is the
// suite that every shard.Store must pass.
package shardtest
