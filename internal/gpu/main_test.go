package gpu

import (
	"fmt"
	"os"
	"testing"
)

// poses are what the test binary does in place of tests where a variable is set.
var poses = map[string]func(value string) error{}

// setUp prepares what the tests of this build need, and returns what takes it away.
var setUp = func() (func(), error) { return func() {}, nil }

func TestMain(m *testing.M) {
	for name, pose := range poses {
		if value, set := os.LookupEnv(name); set {
			fmt.Fprintln(os.Stderr, pose(value))
			os.Exit(1)
		}
	}
	tearDown, err := setUp()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	tearDown()
	os.Exit(code)
}
