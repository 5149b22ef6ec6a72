package compose

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"precept/internal/config"
)

// secrets stand in for what a user writes into .env.
var secrets = types.Mapping{
	"POSTGRES_PASSWORD": "test", "S3_ACCESS_KEY": "test", "S3_SECRET_KEY": "test",
}

// repository is the checkout, seen from this package.
const repository = "../.."

func TestComposeFile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(repository, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range check(t, string(text)) {
		t.Error(fault)
	}
}

// Both stacks' workers must be able to read what they are given.
func TestWorkerConfigurations(t *testing.T) {
	for _, path := range []string{"worker.yaml", "../dev/worker.yaml"} {
		t.Run(path, func(t *testing.T) {
			c, err := config.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			for name, endpoint := range c.Endpoints {
				if strings.HasPrefix(name, "sim-") != endpoint.Simulated {
					t.Errorf("endpoint %s: simulated is %v", name, endpoint.Simulated)
				}
			}
			if c.Trainer.Python == "" || len(c.Models) == 0 {
				t.Errorf("no trainer or no model in %+v", c)
			}
		})
	}
}

// Each break must be found: a check that lets one pass checks nothing.
func TestBrokenComposeFile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(repository, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, old, new, want string
	}{
		{"unknown key", "    restart: unless-stopped\n", "    restarts: always\n", "restarts"},
		{"unknown service", "postgresql: {condition: service_healthy}", "postgres: {condition: service_healthy}", "postgres"},
		{"healthy without a check", "s3: {condition: service_healthy}", "temporal-ui: {condition: service_healthy}", "no healthcheck"},
		{"completion of a server", "temporal-schema: {condition: service_completed_successfully}", "s3: {condition: service_completed_successfully}", "never ends"},
		{"mount of nothing", "./infra/compose/worker.yaml:/etc", "./infra/compose/nothing.yaml:/etc", "nothing.yaml"},
		{"undocumented variable", "${S3_REGION:-us-east-1}", "${S3_REGIONN:-us-east-1}", "S3_REGIONN"},
		{"undocumented secret", "${S3_SECRET_KEY:?set", "${S3_SECRET:?set", "S3_SECRET"},
		{"secret in the file", "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD in .env, see infra/compose/example.env}", "hunter2", "POSTGRES_PWD"},
		{"no such flag", "--queues, gpu", "--queue, gpu", "--queue"},
		{"no such queue", "\"factory,llm\"", "\"factory,lmm\"", "lmm"},
		{"no Dockerfile", "infra/docker/worker.Dockerfile", "infra/docker/workers.Dockerfile", "workers.Dockerfile"},
		{"image without version", "postgres:16", "postgres:latest", "latest"},
	} {
		t.Run(test.name, func(t *testing.T) {
			broken := strings.ReplaceAll(string(text), test.old, test.new)
			if broken == string(text) {
				t.Fatalf("docker-compose.yml holds no %q", test.old)
			}
			faults := fmt.Sprint(check(t, broken))
			if !strings.Contains(faults, test.want) {
				t.Errorf("faults found: %s; none names %q", faults, test.want)
			}
		})
	}
}

// A missing secret must stop compose, not become an empty password.
func TestSecretsAreRequired(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(repository, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for secret := range secrets {
		t.Run(secret, func(t *testing.T) {
			env := types.Mapping{}
			for name, value := range secrets {
				if name != secret {
					env[name] = value
				}
			}
			if _, err := load(string(text), env); err == nil || !strings.Contains(err.Error(), secret) {
				t.Errorf("without %s: %v, want an error that names it", secret, err)
			}
		})
	}
}

func load(text string, env types.Mapping) (*types.Project, error) {
	dir, err := filepath.Abs(repository)
	if err != nil {
		return nil, err
	}
	return loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "docker-compose.yml"), Content: []byte(text)}},
		Environment: env,
	}, func(o *loader.Options) { o.Profiles = []string{"*"} })
}

// check returns everything that is wrong with a compose file.
func check(t *testing.T, text string) []string {
	t.Helper()
	faults := checkVariables(t, text)
	env := types.Mapping{"S3_SECRET": "test"} // So that a misnamed secret is found by its name.
	for name, value := range secrets {
		env[name] = value
	}
	project, err := load(text, env)
	if err != nil {
		return append(faults, err.Error())
	}
	for _, service := range project.Services {
		faults = append(faults, checkService(project, service)...)
	}
	return faults
}

func checkService(project *types.Project, service types.ServiceConfig) (faults []string) {
	fault := func(format string, args ...any) {
		faults = append(faults, service.Name+": "+fmt.Sprintf(format, args...))
	}
	for name, dependency := range service.DependsOn {
		other := project.Services[name]
		switch dependency.Condition {
		case types.ServiceConditionHealthy:
			if other.HealthCheck == nil || len(other.HealthCheck.Test) == 0 {
				fault("waits until %s is healthy, which has no healthcheck", name)
			}
		case types.ServiceConditionCompletedSuccessfully:
			if other.Restart == types.RestartPolicyAlways || other.Restart == types.RestartPolicyUnlessStopped || len(other.Ports) > 0 {
				fault("waits until %s has completed, which never ends", name)
			}
		}
	}
	for _, volume := range service.Volumes {
		switch volume.Type {
		case types.VolumeTypeBind:
			if _, err := os.Stat(volume.Source); err != nil {
				fault("mounts %s, which is not in the repository", volume.Source)
			}
		case types.VolumeTypeVolume:
			if _, ok := project.Volumes[volume.Source]; !ok {
				fault("mounts volume %q, which is not declared", volume.Source)
			}
		}
	}
	if service.Build != nil {
		dockerfile := filepath.Join(service.Build.Context, service.Build.Dockerfile)
		if _, err := os.Stat(dockerfile); err != nil {
			fault("is built from %s, which is not in the repository", dockerfile)
		}
	}
	if _, tag, ok := strings.Cut(service.Image, ":"); !ok || tag == "latest" {
		fault("image %s names no version, latest is none", service.Image)
	}
	for name, value := range service.Environment {
		secret := strings.Contains(name, "PASSWORD") || strings.Contains(name, "SECRET") || strings.HasSuffix(name, "_PWD")
		if secret && value != nil && *value != "test" {
			fault("%s does not come from the environment", name)
		}
	}
	if strings.HasPrefix(service.Image, "precept/") && len(service.Entrypoint) == 0 {
		for _, problem := range checkWorker(service) {
			fault("%s", problem)
		}
	}
	return faults
}

// checkWorker holds a worker's command against its flags and queues.
func checkWorker(service types.ServiceConfig) (faults []string) {
	flags, err := workerFlags()
	if err != nil {
		return []string{err.Error()}
	}
	mounted := func(path string) bool {
		return slices.ContainsFunc(service.Volumes, func(v types.ServiceVolumeConfig) bool { return v.Target == path })
	}
	command := []string(service.Command)
	for i := 0; i+1 < len(command); i += 2 {
		flag, value := command[i], command[i+1]
		if !slices.Contains(flags, flag) {
			faults = append(faults, fmt.Sprintf("a worker has no flag %s", flag))
		}
		switch flag {
		case "--config":
			if !mounted(value) {
				faults = append(faults, fmt.Sprintf("reads %s, which is not mounted", value))
			}
		case "--queues":
			for queue := range strings.SplitSeq(value, ",") {
				if !slices.Contains([]string{"factory", "llm", "gpu"}, queue) {
					faults = append(faults, fmt.Sprintf("there is no queue %q", queue))
				}
			}
		}
	}
	for _, needed := range []string{"--config", "--queues"} {
		if !slices.Contains(command, needed) {
			faults = append(faults, fmt.Sprintf("has no %s in its command %q", needed, command))
		}
	}
	return faults
}

var flagDefinition = regexp.MustCompile(`flag\.\w+\("([\w-]+)"`)

// workerFlags reads the worker's flags from its source.
func workerFlags() (flags []string, err error) {
	text, err := os.ReadFile(filepath.Join(repository, "worker", "main.go"))
	if err != nil {
		return nil, err
	}
	for _, m := range flagDefinition.FindAllStringSubmatch(string(text), -1) {
		flags = append(flags, "--"+m[1])
	}
	return flags, nil
}

var (
	variable   = regexp.MustCompile(`\$\{(\w+)(:[-?])?`)
	documented = regexp.MustCompile(`(?m)^#?(\w+)=`)
)

// checkVariables wants each variable to be documented, and to have a default or to be
// required.
func checkVariables(t *testing.T, text string) (faults []string) {
	t.Helper()
	example, err := os.ReadFile("example.env")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range documented.FindAllStringSubmatch(string(example), -1) {
		known[m[1]] = true
	}
	for _, m := range variable.FindAllStringSubmatch(text, -1) {
		name, fallback := m[1], m[2]
		if !known[name] {
			faults = append(faults, name+" is not in infra/compose/example.env")
		}
		if fallback == "" {
			faults = append(faults, name+" is neither required nor has a default")
		}
	}
	return faults
}
