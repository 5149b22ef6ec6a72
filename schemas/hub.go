package schemas

import (
	"net/url"
	"regexp"
	"strings"
)

// HubScheme begins the path of an import that lies on the Hugging Face Hub.
const HubScheme = "hf://"

// HubPath names files of a data set on the Hugging Face Hub at a revision: a commit, or a
// branch or tag that stands for one. Path is a file, a folder or a pattern.
type HubPath struct {
	Repo     string // OWNER/NAME
	Revision string
	Path     string
}

const hubForm = "hf://datasets/OWNER/NAME@REVISION/FILE, with a commit, branch or tag as REVISION"

var hubRepo = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$`)

// ParseHubPath reads a path of that form. A revision's slashes are written as %2F, but for
// refs/convert/… and refs/pr/….
func ParseHubPath(path string) (h HubPath, err error) {
	fail := func(text string) (HubPath, error) {
		return h, Errorf("read path", path, InvalidInput, "%s", text).WithHint("Write it as %s.", hubForm)
	}
	rest, ok := strings.CutPrefix(path, HubScheme+"datasets/")
	if !ok {
		return fail("it names no data set of the Hub")
	}
	repo, rest, pinned := strings.Cut(rest, "@")
	if !pinned {
		return fail("it has no revision: data that may change under a run are refused")
	}
	parts := 1
	if strings.HasPrefix(rest, "refs/convert/") || strings.HasPrefix(rest, "refs/pr/") {
		parts = 3
	}
	split := strings.SplitN(rest, "/", parts+1)
	if len(split) <= parts || split[parts] == "" {
		return fail("it names no file")
	}
	h = HubPath{Repo: repo, Path: strings.Trim(split[parts], "/")}
	if h.Revision, err = url.PathUnescape(strings.Join(split[:parts], "/")); err != nil || h.Revision == "" {
		return fail("its revision can't be read")
	}
	if !hubRepo.MatchString(repo) {
		return fail("its repository is not of the form OWNER/NAME")
	}
	return h, nil
}

// HubModel names a model on the Hugging Face Hub. Revision is a commit, a branch or a tag; empty
// is what stands for the newest.
type HubModel struct {
	Repo     string // OWNER/NAME, or NAME
	Revision string
}

var (
	hubModel    = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*$`)
	hubRevision = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]*$`)
)

// ParseHubModel reads OWNER/NAME or OWNER/NAME@REVISION.
func ParseHubModel(name string) (m HubModel, err error) {
	repo, revision, pinned := strings.Cut(name, "@")
	if !hubModel.MatchString(repo) || strings.Contains(repo, "..") ||
		pinned && (!hubRevision.MatchString(revision) || strings.Contains(revision, "..") || strings.Contains(revision, "//") || strings.HasSuffix(revision, "/")) {
		return m, Errorf("read name of model", name, InvalidInput, "it names neither a folder on the worker nor a model of the Hub").
			WithHint("Write it as OWNER/NAME or OWNER/NAME@REVISION, with a commit, branch or tag as REVISION.")
	}
	return HubModel{repo, revision}, nil
}

// At is the path of one file at a commit.
func (h HubPath) At(commit, file string) string {
	return HubScheme + "datasets/" + h.Repo + "@" + commit + "/" + file
}
