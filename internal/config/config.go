// Package config reads a worker's configuration: the store, the endpoints by
// name, where models lie, and the trainer's Python. It holds no secrets: keys
// are named environment variables.
package config

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"

	"sigs.k8s.io/yaml"

	"precept/internal/gpu"
	"precept/internal/llm"
	"precept/internal/serving"
	"precept/internal/shard"
	"precept/internal/trainer"
	"precept/schemas"
)

// Config is a worker's configuration file, in YAML or JSON.
type Config struct {
	Store     Store                   `json:"store"`
	Endpoints map[string]llm.Endpoint `json:"endpoints"`
	// Models maps a Hugging Face name to a local folder that holds it.
	Models  map[string]string `json:"models"`
	Trainer trainer.Config    `json:"trainer"`
	Serving serving.Config    `json:"serving"`
	GPU     gpu.Config        `json:"gpu"`
}

// Store says where the run's objects lie.
type Store struct {
	Bucket    string `json:"bucket"`
	Prefix    string `json:"prefix"`
	Endpoint  string `json:"endpoint"`
	Region    string `json:"region"`
	PathStyle bool   `json:"path_style"`
}

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}`)

// Load reads a configuration file. ${NAME} and ${NAME:-default} stand for
// environment variables.
func Load(path string) (Config, error) {
	const op = "read configuration"
	var c Config
	raw, err := os.ReadFile(path)
	if err != nil {
		return c, schemas.E(op, path, schemas.NotFound, err).WithHint("Name the worker's configuration with --config.")
	}
	var missing []string
	text := variable.ReplaceAllStringFunc(string(raw), func(m string) string {
		parts := variable.FindStringSubmatch(m)
		if v, ok := os.LookupEnv(parts[1]); ok && v != "" {
			return v
		}
		if parts[2] == "" {
			missing = append(missing, parts[1])
		}
		return parts[3]
	})
	if len(missing) > 0 {
		return c, schemas.Errorf(op, path, schemas.InvalidInput, "the environment lacks %v", missing)
	}
	var inJSON json.RawMessage
	keep := func(d *json.Decoder) *json.Decoder {
		if d.Decode(&inJSON) != nil {
			return d
		}
		return json.NewDecoder(bytes.NewReader(inJSON))
	}
	if err := yaml.UnmarshalStrict([]byte(text), &c, keep); err != nil {
		return c, schemas.E(op, path, schemas.InvalidInput, schemas.Explain(inJSON, c, err))
	}
	if c.Store.Bucket == "" {
		return c, schemas.Errorf(op, path, schemas.InvalidInput, "store.bucket is missing")
	}
	if err := c.Serving.Check(); err != nil {
		return c, schemas.E(op, path, schemas.InvalidInput, err)
	}
	for name, e := range c.Endpoints {
		e.Name = name
		if err := e.Check(); err != nil {
			return c, schemas.E(op, path, schemas.InvalidInput, err)
		}
		c.Endpoints[name] = e
	}
	return c, nil
}

// EndpointNames lists the endpoints.
func (c Config) EndpointNames() []string { return slices.Sorted(maps.Keys(c.Endpoints)) }

// OpenStore opens the configured store.
func (c Config) OpenStore(ctx context.Context) (*shard.S3, error) {
	return shard.NewS3(ctx, shard.Config{
		Bucket: c.Store.Bucket, Prefix: c.Store.Prefix, Endpoint: c.Store.Endpoint,
		Region: c.Store.Region, PathStyle: c.Store.PathStyle,
	})
}
