package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	operatorservice "go.temporal.io/api/operatorservice/v1"
	workflowservice "go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"google.golang.org/protobuf/types/known/durationpb"
)

// leastTemporal is the oldest temporal CLI whose development server will do.
var leastTemporal = version{1, 5, 1}

// retention is how long closed runs stay visible; the development server's own is a day.
const retention = 30 * 24 * time.Hour

// searchAttributes are what runs can be found by.
var searchAttributes = map[string]enumspb.IndexedValueType{
	"RunName":      enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"RunStage":     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"RunState":     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"PolicyDigest": enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"BaseModel":    enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"SpentUSD":     enumspb.INDEXED_VALUE_TYPE_DOUBLE,
}

// prepareTemporal sets the namespace's retention and adds search attributes that are not
// there yet, on the server that the environment names.
func prepareTemporal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return err
	}
	c, err := client.DialContext(ctx, options)
	if err != nil {
		return err
	}
	defer c.Close()
	namespace := options.Namespace
	if namespace == "" {
		namespace = client.DefaultNamespace
	}
	_, err = c.WorkflowService().UpdateNamespace(ctx, &workflowservice.UpdateNamespaceRequest{
		Namespace: namespace,
		Config:    &namespacepb.NamespaceConfig{WorkflowExecutionRetentionTtl: durationpb.New(retention)},
	})
	if err != nil {
		return fmt.Errorf("set the retention of namespace %q: %w", namespace, err)
	}
	have, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return fmt.Errorf("list search attributes: %w", err)
	}
	lacking := map[string]enumspb.IndexedValueType{}
	for name, kind := range searchAttributes {
		old, ok := have.CustomAttributes[name]
		if ok && old != kind {
			return fmt.Errorf("search attribute %s is a %s in this Temporal and should be a %s: remove it with: temporal operator search-attribute remove --name %s", name, old, kind, name)
		}
		if !ok {
			lacking[name] = kind
		}
	}
	if len(lacking) > 0 {
		_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
			Namespace: namespace, SearchAttributes: lacking,
		})
		if err != nil {
			return fmt.Errorf("add search attributes: %w", err)
		}
	}
	fmt.Printf("namespace %s: closed runs stay for %d days, %d search attributes added, %d there before\n",
		namespace, int(retention.Hours()/24), len(lacking), len(searchAttributes)-len(lacking))
	return nil
}

// version is a program's major, minor and patch number.
type version [3]int

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

// less says whether v is older than other.
func (v version) less(other version) bool {
	for i := range v {
		if v[i] != other[i] {
			return v[i] < other[i]
		}
	}
	return false
}

var versionPattern = regexp.MustCompile(`^temporal version v?(\d+)\.(\d+)\.(\d+)(-\S+)?`)

// parseVersion reads what `temporal --version` prints. A build from source without a
// version counts as older than any release.
func parseVersion(text string) (version, error) {
	m := versionPattern.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return version{}, fmt.Errorf("%q names no version", text)
	}
	var v version
	for i := range v {
		n, err := strconv.Atoi(m[i+1])
		if err != nil {
			return version{}, fmt.Errorf("%q names no version", text)
		}
		v[i] = n
	}
	return v, nil
}

// installedTemporal finds a temporal on the path that is new enough, outside of this
// checkout's own tools.
func installedTemporal(path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		candidate := filepath.Join(dir, "temporal")
		if !filepath.IsAbs(candidate) || strings.HasSuffix(filepath.Clean(dir), "/"+binDir) {
			continue
		}
		if info, err := os.Stat(candidate); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			continue
		}
		out, err := exec.Command(candidate, "--version").Output()
		if err != nil {
			continue
		}
		if v, err := parseVersion(string(out)); err == nil && !v.less(leastTemporal) {
			return candidate, nil
		}
	}
	return "", errors.New("no temporal of version " + leastTemporal.String() + " or later is installed")
}
