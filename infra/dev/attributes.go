package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// hasAttributes says whether files in dir can carry user attributes, in which the S3
// gateway keeps an object's metadata; where they can't, it needs a folder beside.
func hasAttributes(dir string) bool {
	f, err := os.CreateTemp(dir, ".attributes-*")
	if err != nil {
		return false
	}
	defer os.Remove(f.Name())
	defer f.Close()
	return unix.Setxattr(f.Name(), "user.precept", []byte("1"), 0) == nil
}
