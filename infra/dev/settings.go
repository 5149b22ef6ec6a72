package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// State of the stack, relative to the checkout.
const (
	stateDir    = ".precept"
	binDir      = stateDir + "/bin"
	logDir      = stateDir + "/logs"
	runDir      = stateDir + "/run"
	s3Dir       = stateDir + "/s3"
	s3MetaDir   = stateDir + "/s3-meta"
	socketPath  = runDir + "/process-compose.sock"
	composeFile = "infra/dev/process-compose.yaml"
	bucket      = "precept"
)

// defaultTemporalPort is where every Temporal client looks by default.
const defaultTemporalPort = 7233

// markName is the environment variable that marks every member of a stack.
const markName = "PRECEPT_STACK"

// settings are what a user can choose, by environment variables.
type settings struct {
	TemporalPort int    `json:"temporal_port"` // PRECEPT_TEMPORAL_PORT, default 7233
	UIPort       int    `json:"ui_port"`       // PRECEPT_UI_PORT, default 8233
	S3Port       int    `json:"s3_port"`       // PRECEPT_S3_PORT, default 7070
	SimLLMPort   int    `json:"simllm_port"`   // PRECEPT_SIMLLM_PORT, default 8089
	S3AccessKey  string `json:"s3_access_key"` // PRECEPT_S3_ACCESS_KEY, default "precept"
	S3SecretKey  string `json:"s3_secret_key"` // PRECEPT_S3_SECRET_KEY, default "precept-secret"
}

// port is one TCP port of the stack on 127.0.0.1.
type port struct {
	process  string
	variable string
	number   int
}

func settingsFrom(getenv func(string) string) (settings, error) {
	s := settings{
		TemporalPort: defaultTemporalPort, UIPort: 8233, S3Port: 7070, SimLLMPort: 8089,
		S3AccessKey: "precept", S3SecretKey: "precept-secret",
	}
	for variable, field := range map[string]*int{
		"PRECEPT_TEMPORAL_PORT": &s.TemporalPort,
		"PRECEPT_UI_PORT":       &s.UIPort,
		"PRECEPT_S3_PORT":       &s.S3Port,
		"PRECEPT_SIMLLM_PORT":   &s.SimLLMPort,
	} {
		text := getenv(variable)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 65535 {
			return settings{}, fmt.Errorf("%s=%q is not a port: set it to a number from 1 to 65535", variable, text)
		}
		*field = n
	}
	for variable, field := range map[string]*string{
		"PRECEPT_S3_ACCESS_KEY": &s.S3AccessKey,
		"PRECEPT_S3_SECRET_KEY": &s.S3SecretKey,
	} {
		if text := getenv(variable); text != "" {
			*field = text
		}
	}
	used := map[int]string{}
	for _, p := range s.ports() {
		if other, ok := used[p.number]; ok {
			return settings{}, fmt.Errorf("%s and %s are both %d: give each its own port", other, p.variable, p.number)
		}
		used[p.number] = p.variable
	}
	return s, nil
}

func (s settings) ports() []port {
	return []port{
		{"temporal", "PRECEPT_TEMPORAL_PORT", s.TemporalPort},
		{"temporal", "PRECEPT_UI_PORT", s.UIPort},
		{"s3", "PRECEPT_S3_PORT", s.S3Port},
		{"simllm", "PRECEPT_SIMLLM_PORT", s.SimLLMPort},
	}
}

func (s settings) addresses() string {
	return fmt.Sprintf("Temporal  127.0.0.1:%d\nUI        http://127.0.0.1:%d\nS3        http://127.0.0.1:%d, bucket %s (files under %s/%s)\nLogs      %s/\nShell     eval \"$(%s/precept-dev env)\"  (finds temporal and starter)",
		s.TemporalPort, s.UIPort, s.S3Port, bucket, s3Dir, bucket, logDir, binDir)
}

// public is the environment that a client of the stack needs, as NAME=value.
func (s settings) public() []string {
	pairs := []string{
		fmt.Sprintf("TEMPORAL_ADDRESS=127.0.0.1:%d", s.TemporalPort),
		"TEMPORAL_NAMESPACE=default",
		"AWS_ACCESS_KEY_ID=" + s.S3AccessKey,
		"AWS_SECRET_ACCESS_KEY=" + s.S3SecretKey,
		"AWS_REGION=us-east-1",
		fmt.Sprintf("PRECEPT_UI=http://127.0.0.1:%d", s.UIPort),
	}
	for _, p := range s.ports() {
		pairs = append(pairs, fmt.Sprintf("%s=%d", p.variable, p.number))
	}
	return pairs
}

// environment is what the stack's processes get: the user's own environment
// without what points Temporal or S3 clients elsewhere, and the stack's mark.
func (s settings) environment(root string, inherited []string) []string {
	env := slices.DeleteFunc(slices.Clone(inherited), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return strings.HasPrefix(name, "TEMPORAL_") || strings.HasPrefix(name, "AWS_") ||
			strings.HasPrefix(name, "PC_") || strings.HasPrefix(name, "VGW_") || strings.EqualFold(name, "NO_PROXY")
	})
	noProxy := "127.0.0.1,localhost"
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		if old := os.Getenv(name); old != "" {
			noProxy += "," + old
			break
		}
	}
	env = append(env, s.public()...)
	return append(env,
		markName+"="+root,
		// An empty file, so that no profile in the user's home is read.
		"TEMPORAL_CONFIG_FILE="+runDir+"/temporal.toml",
		"AWS_EC2_METADATA_DISABLED=true",
		"ROOT_ACCESS_KEY_ID="+s.S3AccessKey,
		"ROOT_SECRET_ACCESS_KEY="+s.S3SecretKey,
		"COMPOSE_SHELL=sh",
		"PROC_COMP_CONFIG="+runDir,
		"NO_PROXY="+noProxy,
		"no_proxy="+noProxy,
	)
}
