package storeurl

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/azure"
	"github.com/massif-fs/massif/object/file"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/object/s3"
)

func TestParseS3(t *testing.T) {
	l, err := Parse("s3://bucket/some/prefix?endpoint=http://127.0.0.1:9000&region=eu-1&path-style=true&profile=p" +
		"&sse=aws:kms&sse-kms-key-id=k&storage-class=STANDARD_IA&checksum=crc64nvme&conditional-put=false" +
		"&part-size=16MiB&concurrency=3&stall-timeout=5s&credentials-file=/etc/creds")
	if err != nil {
		t.Fatal(err)
	}
	c := l.S3
	if l.Scheme != "s3" || c.Bucket != "bucket" || c.Prefix != "some/prefix/" || c.Endpoint != "http://127.0.0.1:9000" || c.Region != "eu-1" ||
		!c.PathStyle || c.Profile != "p" || c.SSE != "aws:kms" || c.SSEKMSKeyID != "k" || c.StorageClass != "STANDARD_IA" ||
		c.Checksum != s3.CRC64NVME || !c.NoConditionalPut || c.PartSize != 16<<20 || c.Concurrency != 3 ||
		c.StallTimeout != 5*time.Second || len(c.CredentialFiles) != 1 {
		t.Errorf("parsed %+v", c)
	}
	l, err = Parse("s3://bucket?anonymous=yes&sse=true&path-style=false")
	if err != nil {
		t.Fatal(err)
	}
	if c := l.S3; c.Prefix != "" || c.PathStyle || !c.VirtualHost || !c.Anonymous || c.SSE != "AES256" || c.NoConditionalPut {
		t.Errorf("parsed %+v", c)
	}
}

func TestParseAzure(t *testing.T) {
	l, err := Parse("az://box/some/prefix?account=acc&endpoint=http://127.0.0.1:10000/acc&auth=SAS&sas-file=/run/sas&storage-class=Cool" +
		"&checksum=md5&content-md5=yes&part-size=4MiB&concurrency=3&proxy=http://p:3128&customer-key-file=/k")
	if err != nil {
		t.Fatal(err)
	}
	c := l.Azure
	if l.Scheme != "az" || c.Container != "box" || c.Prefix != "some/prefix/" || c.Account != "acc" || c.Endpoint != "http://127.0.0.1:10000/acc" || c.Hierarchical ||
		c.Credentials.Mode != azure.SAS || c.Credentials.SASFile != "/run/sas" || c.Tier != "Cool" || c.Checksum != azure.MD5 || !c.ContentMD5 ||
		c.PartSize != 4<<20 || c.Concurrency != 3 || c.Proxy != "http://p:3128" || l.customerKey != "/k" {
		t.Errorf("parsed %+v", c)
	}
	l, err = Parse("adls://box?tenant-id=t&client-id=c&token-file=/f&keep-directories=true&identity-client-id=i")
	if err != nil {
		t.Fatal(err)
	}
	if c := l.Azure; !c.Hierarchical || !c.KeepDirectories || c.Credentials.TenantID != "t" || c.Credentials.ClientID != "c" || c.Credentials.TokenFile != "/f" || c.Credentials.AppID != "i" {
		t.Errorf("parsed %+v", c)
	}
}

func TestParseGCS(t *testing.T) {
	l, err := Parse("gs://bucket_1/p?endpoint=http://127.0.0.1:4443&anonymous=true&user-project=pay&kms-key=k&storage-class=NEARLINE&part-size=1MiB&stall-timeout=5s")
	if err != nil {
		t.Fatal(err)
	}
	c := l.GCS
	if l.Scheme != "gs" || c.Bucket != "bucket_1" || c.Prefix != "p/" || c.Endpoint != "http://127.0.0.1:4443" || !c.Anonymous || c.UserProject != "pay" ||
		c.KMSKey != "k" || c.StorageClass != "NEARLINE" || c.PartSize != 1<<20 || c.StallTimeout != 5*time.Second {
		t.Errorf("parsed %+v", c)
	}
}

// TestOpenClouds: opening sends nothing, and credentials that are said come before
// those of the environment.
func TestOpenClouds(t *testing.T) {
	t.Setenv("AZURE_STORAGE_ACCESS_KEY", "not base64: hunter2")
	for url, name := range map[string]string{
		"az://box/p?account=acc&endpoint=http://127.0.0.1:1/acc":   "az://box/p/?account=acc",
		"adls://box/p?account=acc&endpoint=http://127.0.0.1:1/acc": "adls://box/p/?account=acc",
		"gs://bucket/p?endpoint=http://127.0.0.1:1":                "gs://bucket/p/",
	} {
		s, err := Open(t.Context(), url, Options{AzureCredentials: azure.Credentials{AccountKey: "aHVudGVyMg=="}})
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if got := s.String(); !strings.HasPrefix(got, name) || strings.Contains(got, "aHVudGVyMg") {
			t.Errorf("%s calls itself %s", url, got)
		}
		if _, ok := object.As[object.Tree](s); ok != strings.HasPrefix(url, "adls:") {
			t.Errorf("%s: a Tree: %v", url, ok)
		}
		s.Close()
	}
	if _, err := Open(t.Context(), "az://box?account=acc", Options{}); !errors.Is(err, object.ErrAccess) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a bad key of the environment: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for in, want := range map[string]string{
		"":                                            "is not a URL",
		"/srv/objects":                                "is not a URL",
		"ftp://x/y":                                   "unknown kind of store",
		"file://relative/dir":                         "absolute path",
		"file:relative":                               "absolute path",
		"file:///a%00b":                               "NUL",
		"file:///a?create=true":                       `unknown parameter "create"`,
		"file:///a?sync=maybe":                        "true or false",
		"file:///a#b":                                 "fragment",
		"s3://":                                       "no bucket",
		"s3:bucket":                                   "no bucket",
		"s3://bucket:9000/x":                          "endpoint",
		"s3://key:hunter2@bucket/x":                   "holds credentials",
		"s3://b?endpoint=http://u:hunter2@h":          "holds credentials",
		"s3://b?secret-key=hunter2":                   "must not hold secrets",
		"s3://b?hunter=1&color=2":                     `unknown parameter "color", "hunter"`,
		"s3://b?region=a&region=b":                    "twice",
		"s3://b?region=":                              "empty",
		"s3://b?part-size=1MiB":                       "part size",
		"s3://b?part-size=hunter2":                    "write a size",
		"s3://b?stall-timeout=-1s":                    "write a duration",
		"s3://b?concurrency=0":                        "1 or more",
		"s3://b?sse=rot13":                            "encryption",
		"s3://b?checksum=parity":                      "checksum",
		"s3://b?sse-kms-key-id=k":                     "KMS",
		"s3://b?endpoint=ftp://x":                     "http or https",
		"s3://key:hunter2@b%zz":                       "not a URL",
		"az://":                                       "no container",
		"az://Box?account=a":                          "no container's name",
		"az://box?account=a&account-key=hunter2":      "must not hold secrets",
		"az://box?account=a&sig=hunter2":              "must not hold secrets",
		"az://box?account=a&sas=hunter2":              "must not hold secrets",
		"az://box?account=a&auth=magic":               "way of authentication",
		"az://box?account=a&keep-directories=1":       `unknown parameter "keep-directories"`,
		"az://box?account=a&proxy=http://u:hunter2@p": "must not hold secrets",
		"az://hunter2@box?account=a":                  "holds credentials",
		"gs://":                                       "no bucket",
		"gs://b:1/x":                                  "endpoint",
		"gs://b?token=hunter2":                        "must not hold secrets",
		"gs://b?part-size=1000":                       "256 KiB",
		"s3://b?sse=true&customer-key-file=f":         "exclude",
		"mem://":                                      "mem://NAME",
		"mem://a/b":                                   "mem://NAME",
		"mem://a?x=1":                                 `unknown parameter "x"`,
	} {
		_, err := Parse(in)
		if err == nil {
			t.Errorf("%q was accepted", in)
			continue
		}
		if !errors.Is(err, object.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error shows the secret: %v", in, err)
		}
	}
}

func TestOpen(t *testing.T) {
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "with space", "ü")
	url := "file://" + strings.ReplaceAll(dir, " ", "%20")
	if _, err := Open(ctx, url, Options{}); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("missing directory: %v", err)
	}
	s, err := Open(ctx, url+"?sync=false", Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if f := s.(*file.Store); f.Path() != dir {
		t.Errorf("path %q, want %q", f.Path(), dir)
	}
	if err := Check(ctx, s, true); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
	defer mem.Forget("storeurl")
	m, err := Open(ctx, "mem://storeurl", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if m.(*mem.Store) != mem.Named("storeurl") {
		t.Error("not the named store")
	}
	b, err := Open(ctx, "s3://bucket/p?endpoint=http://127.0.0.1:1", Options{S3Credentials: &s3.Credentials{AccessKey: "a", SecretKey: "hunter2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if strings.Contains(b.String(), "hunter2") || !strings.HasPrefix(b.String(), "s3://bucket/p/") {
		t.Errorf("named %s", b)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"file:///a", "s3://b/p?region=x&sse=true", "mem://x", "s3://a:b@c", "s3://b?part-size=16MiB", "file:///%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := Parse(s)
		if (l == nil) == (err == nil) {
			t.Fatalf("%q: %v, %v", s, l, err)
		}
		if err == nil && l.Scheme == "file" && !filepath.IsAbs(l.Path) {
			t.Errorf("%q: path %q", s, l.Path)
		}
	})
}
