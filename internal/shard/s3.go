package shard

import (
	"bytes"
	"context"
	"io"
	"iter"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	tmtypes "github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"precept/schemas"
)

// Config says where an S3 store is. Credentials come from the SDK's default
// chain: environment, shared files, workload identity, instance role.
type Config struct {
	Bucket string
	// Prefix is put before every key; it is empty or a path without a slash at
	// either end.
	Prefix string
	// Endpoint is the URL of a server other than AWS's; empty leaves it to the
	// SDK's settings (AWS_ENDPOINT_URL_S3).
	Endpoint string
	// Region defaults to the SDK's setting, then to us-east-1.
	Region string
	// PathStyle puts the bucket into the path instead of the host name, which most
	// servers other than AWS's want.
	PathStyle bool
}

// S3 is a Store on anything that speaks S3.
type S3 struct {
	config Config
	client *s3.Client
	files  *transfermanager.Client
}

var _ Store = (*S3)(nil)

// multipart is the file size from which PutFile uploads in parts.
const multipart = 16 << 20

// NewS3 opens a store. It asks for credentials but sends nothing yet.
func NewS3(ctx context.Context, c Config) (*S3, error) {
	const op = "open store"
	c.Prefix = strings.Trim(c.Prefix, "/")
	if c.Bucket == "" {
		return nil, schemas.Errorf(op, "", schemas.InvalidInput, "no bucket is named").WithHint("Name one in the worker's configuration")
	}
	if c.Prefix != "" && !isKey(c.Prefix) {
		return nil, schemas.Errorf(op, c.Bucket, schemas.InvalidInput, "prefix %q is not a path of printable ASCII names", c.Prefix)
	}
	base, err := config.LoadDefaultConfig(ctx,
		// Many servers other than AWS's choke on checksum trailers. Shards, folders
		// and journal carry digests of their own.
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.ResponseHeaderTimeout = 2 * time.Minute
			t.MaxIdleConnsPerHost = 64
		})),
	)
	if err != nil {
		return nil, schemas.E(op, c.Bucket, schemas.InvalidInput, err).WithHint("Check the AWS settings in the environment and ~/.aws")
	}
	if c.Region != "" {
		base.Region = c.Region
	} else if base.Region == "" {
		base.Region = "us-east-1"
	}
	c.Region = base.Region
	if _, err := base.Credentials.Retrieve(ctx); err != nil {
		return nil, schemas.E(op, c.Bucket, schemas.InvalidInput, err).
			WithHint("Give credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role")
	}
	if base.RetryMaxAttempts == 0 {
		base.RetryMaxAttempts = 5
	}
	client := s3.NewFromConfig(base, func(o *s3.Options) {
		o.Retryer = retry.AddWithErrorCodes(o.Retryer, "ConditionalRequestConflict", "OperationAborted")
		// By default 20 s: for so long one segment would hold back the journal, and all requests with it.
		o.Retryer = retry.AddWithMaxBackoffDelay(o.Retryer, 2*time.Second)
		o.UsePathStyle = c.PathStyle
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
	})
	files := transfermanager.New(client, func(o *transfermanager.Options) {
		o.MultipartUploadThreshold = multipart
		o.FailTimeout = 10 * time.Second // for the abort of an upload whose context has ended
		// It ignores the client's settings.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.DisableChecksumValidation = true
		o.GetObjectType = tmtypes.GetObjectRanges
	})
	return &S3{config: c, client: client, files: files}, nil
}

// Config returns the configuration that s was opened with, its defaults filled in.
func (s *S3) Config() Config { return s.config }

// CreateBucket creates the bucket where it is missing.
func (s *S3) CreateBucket(ctx context.Context) error {
	in := &s3.CreateBucketInput{Bucket: &s.config.Bucket}
	if s.config.Region != "us-east-1" {
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{
			LocationConstraint: types.BucketLocationConstraint(s.config.Region),
		}
	}
	_, err := s.client.CreateBucket(ctx, in)
	switch code, _ := codeOf(err); code {
	case "BucketAlreadyOwnedByYou", "BucketAlreadyExists":
		// Whose it is, and whether it can be used, the next request tells.
		return nil
	}
	return s.wrap("create bucket", s.config.Bucket, err)
}

// Get implements Store.
func (s *S3) Get(ctx context.Context, key string) ([]byte, Info, error) {
	const op = "get"
	if err := checkKey(op, key); err != nil {
		return nil, Info{}, err
	}
	// The SDK retries requests, not the reading of their bodies.
	for attempt := 1; ; attempt++ {
		out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.config.Bucket, Key: s.key(key)})
		if err != nil {
			return nil, Info{}, s.wrap(op, key, err)
		}
		body, err := io.ReadAll(out.Body)
		out.Body.Close()
		if err == nil {
			return body, Info{
				Key: key, ETag: unquote(out.ETag), Size: int64(len(body)),
				Modified: aws.ToTime(out.LastModified), Age: age(out), Meta: lower(out.Metadata),
			}, nil
		}
		if attempt == 3 || ctx.Err() != nil {
			return nil, Info{}, schemas.E(op, key, schemas.Unavailable, err)
		}
	}
}

// age is an object's age when the server replied. Both of its times are in whole seconds.
func age(out *s3.GetObjectOutput) time.Duration {
	now, ok := middleware.GetServerTime(out.ResultMetadata)
	if !ok || out.LastModified == nil {
		return 0
	}
	return max(0, now.Sub(*out.LastModified)-time.Second)
}

// Head implements Store.
func (s *S3) Head(ctx context.Context, key string) (Info, error) {
	const op = "head"
	if err := checkKey(op, key); err != nil {
		return Info{}, err
	}
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.config.Bucket, Key: s.key(key)})
	if err != nil {
		return Info{}, s.wrap(op, key, err)
	}
	return Info{
		Key: key, ETag: unquote(out.ETag), Size: aws.ToInt64(out.ContentLength),
		Modified: aws.ToTime(out.LastModified), Meta: lower(out.Metadata),
	}, nil
}

// Put implements Store.
func (s *S3) Put(ctx context.Context, key string, body []byte, opts PutOptions) (Info, error) {
	const op = "put"
	if err := opts.check(op, key); err != nil {
		return Info{}, err
	}
	out, err := s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.config.Bucket, Key: s.key(key), Body: bytes.NewReader(body),
		ContentType: aws.String(opts.contentType()), Metadata: opts.meta(),
		IfNoneMatch: noneMatch(opts), IfMatch: match(opts),
	})
	if err != nil {
		return Info{}, s.wrapPut(ctx, key, err)
	}
	return Info{Key: key, ETag: unquote(out.ETag), Size: int64(len(body)), Meta: opts.meta()}, nil
}

// PutFile implements Store.
func (s *S3) PutFile(ctx context.Context, key, path string, opts PutOptions) (Info, error) {
	const op = "put"
	if err := opts.check(op, key); err != nil {
		return Info{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return Info{}, fileError(op, key, err)
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return Info{}, fileError(op, key, err)
	}
	if opts.IfNoneMatch && stat.Size() >= multipart {
		// The server checks the condition when all parts are there: look first.
		if _, err := s.Head(ctx, key); err == nil {
			return Info{}, schemas.Errorf(op, key, schemas.Conflict, "the object exists")
		} else if schemas.KindOf(err) != schemas.NotFound {
			return Info{}, err
		}
	}
	out, err := s.files.UploadObject(ctx, &transfermanager.UploadObjectInput{
		Bucket: &s.config.Bucket, Key: s.key(key), Body: f,
		ContentType: aws.String(opts.contentType()), Metadata: opts.meta(),
		IfNoneMatch: noneMatch(opts), IfMatch: match(opts),
	})
	if err != nil {
		return Info{}, s.wrapPut(ctx, key, err)
	}
	return Info{Key: key, ETag: unquote(out.ETag), Size: stat.Size(), Meta: opts.meta()}, nil
}

// GetFile implements Store.
func (s *S3) GetFile(ctx context.Context, key, path string) (Info, error) {
	const op = "get"
	info, err := s.Head(ctx, key)
	if err != nil {
		return Info{}, err
	}
	var transfer error
	err = createFile(path, func(f *os.File) error {
		if info.Size == 0 {
			return nil // a range of nothing is an error
		}
		_, transfer = s.files.DownloadObject(ctx, &transfermanager.DownloadObjectInput{
			Bucket: &s.config.Bucket, Key: s.key(key), WriterAt: f, IfMatch: aws.String(quote(info.ETag)),
		})
		return transfer
	})
	if transfer != nil {
		return Info{}, s.wrap(op, key, transfer)
	}
	if err != nil {
		return Info{}, fileError(op, key, err)
	}
	return info, nil
}

// List implements Store.
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return s.ListAfter(ctx, prefix, "")
}

// ListAfter implements Store.
func (s *S3) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		root := ""
		if s.config.Prefix != "" {
			root = s.config.Prefix + "/"
		}
		input := &s3.ListObjectsV2Input{Bucket: &s.config.Bucket, Prefix: aws.String(root + prefix)}
		if after != "" {
			input.StartAfter = aws.String(root + after)
		}
		pages := s3.NewListObjectsV2Paginator(s.client, input)
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(Info{}, s.wrap("list", prefix, err))
				return
			}
			for _, o := range page.Contents {
				key := strings.TrimPrefix(aws.ToString(o.Key), root)
				if strings.HasSuffix(key, "/") {
					continue // a folder marker of some other tool
				}
				info := Info{Key: key, ETag: unquote(o.ETag), Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}
				if !yield(info, nil) {
					return
				}
			}
		}
	}
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, key string) error {
	const op = "delete"
	if err := checkKey(op, key); err != nil {
		return err
	}
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.config.Bucket, Key: s.key(key)})
	if err = s.wrap(op, key, err); schemas.KindOf(err) == schemas.NotFound {
		return nil
	}
	return err
}

func (s *S3) key(key string) *string { return aws.String(path.Join(s.config.Prefix, key)) }

func noneMatch(o PutOptions) *string {
	if o.IfNoneMatch {
		return aws.String("*")
	}
	return nil
}

func match(o PutOptions) *string {
	if o.IfMatch != "" {
		return aws.String(quote(o.IfMatch))
	}
	return nil
}

func quote(etag string) string    { return `"` + etag + `"` }
func unquote(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }

func lower(meta map[string]string) map[string]string {
	return PutOptions{Meta: meta}.meta()
}
