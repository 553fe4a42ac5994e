// Package testserver starts real servers for tests, each on a free loopback port
// with a directory of its own, and puts faults between them and their clients.
//
// The programs come from scripts/install-tools.sh. Where one is missing the test
// is skipped; with MASSIF_REQUIRE_TOOLS=1 it fails, so that nothing is left out
// unseen where all tests must run.
package testserver

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/massif-fs/massif/internal/freeport"
)

// Tool returns the path of an installed test program, from $MASSIF_TOOLS, the
// directory where install-tools.sh puts it, or $PATH. If it is missing the test
// ends, skipped or failed.
func Tool(t testing.TB, name string) string {
	t.Helper()
	if path := find(name); path != "" {
		return path
	}
	msg := name + " is not installed; scripts/install-tools.sh does that"
	if os.Getenv("MASSIF_REQUIRE_TOOLS") == "1" {
		t.Fatal(msg)
	}
	t.Skip(msg)
	return ""
}

func find(name string) string {
	dirs := []string{os.Getenv("MASSIF_TOOLS")}
	if dirs[0] == "" {
		cache := os.Getenv("XDG_CACHE_HOME")
		if home, err := os.UserHomeDir(); cache == "" && err == nil {
			cache = filepath.Join(home, ".cache")
		}
		dirs[0] = filepath.Join(cache, "massif-tools")
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

// output collects what a program says, for the log of a failed test.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() < 64<<10 {
		o.buf.Write(p)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start runs a program until the end of the test and waits until ready returns
// nil. The program dies with the test process, whatever happens to that. An error
// is that of a program that ended at once.
func start(t testing.TB, cmd *exec.Cmd, ready func() error) error {
	t.Helper()
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	died := make(chan error, 1)
	started := make(chan error, 1)
	go func() {
		// Pdeathsig is about the thread that started the program: it must live on.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			died <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-died
		if t.Failed() && out.String() != "" {
			t.Logf("%s said:\n%s", filepath.Base(cmd.Path), out.String())
		}
	})
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := ready()
		select {
		case derr := <-died:
			died <- derr // for the clean-up
			return fmt.Errorf("%s ended: %v\n%s", filepath.Base(cmd.Path), derr, out.String())
		default:
		}
		if err == nil {
			return nil
		}
		select {
		case derr := <-died:
			died <- derr
			continue
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %v\n%s", filepath.Base(cmd.Path), err, out.String())
		}
	}
}

// Port returns a port of 127.0.0.1 for a server that cannot be told to choose one.
// Nobody listens there, and nobody will by chance before the server does.
func Port(t testing.TB) string {
	t.Helper()
	port, err := freeport.Choose()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// address is a host and port for a server.
func address(t testing.TB) string {
	t.Helper()
	return "127.0.0.1:" + Port(t)
}

func dial(addr string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

// Credentials of a test server.
type Credentials struct {
	AccessKey, SecretKey string
}

// S3 starts an S3 server (versitygw over a directory) with one empty bucket.
func S3(t testing.TB) (endpoint, bucket string, creds Credentials) {
	t.Helper()
	return startS3(t, "http")
}

// S3TLS is S3 with HTTPS. caFile holds the certificate that the server is known
// by.
func S3TLS(t testing.TB) (endpoint, bucket string, creds Credentials, caFile string) {
	t.Helper()
	cert, key := certificate(t)
	endpoint, bucket, creds = startS3(t, "https", "--cert", cert, "--key", key)
	return endpoint, bucket, creds, cert
}

func startS3(t testing.TB, scheme string, flags ...string) (endpoint, bucket string, creds Credentials) {
	t.Helper()
	program := Tool(t, "versitygw")
	dir := t.TempDir()
	bucket = "massif-test"
	if err := os.Mkdir(filepath.Join(dir, bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	creds = Credentials{"massif-access", "massif-secret-of-a-test"}
	for try := 1; ; try++ {
		addr := address(t)
		cmd := exec.Command(program, append(slices.Clone(flags), "--port", addr, "--quiet", "--keep-alive", "posix", dir)...)
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+creds.AccessKey, "ROOT_SECRET_KEY="+creds.SecretKey)
		err := start(t, cmd, func() error { return dial(addr) })
		if err == nil {
			return fmt.Sprintf("%s://%s", scheme, addr), bucket, creds
		}
		if try == 5 {
			t.Fatal(err)
		}
	}
}

// The account of Azurite, which is the same in every installation.
const (
	AzureAccount = "devstoreaccount1"
	AzureKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// Azure starts Azurite, a server of the Blob protocol of Azure Storage, whose
// containers still have to be made. The endpoint is the URL of AzureAccount.
func Azure(t testing.TB) (endpoint string) {
	t.Helper()
	return startAzure(t, "http")
}

// AzureContainer makes a container at an endpoint of Azure.
func AzureContainer(t testing.TB, endpoint, name string) {
	t.Helper()
	key, err := container.NewSharedKeyCredential(AzureAccount, AzureKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential(endpoint+"/"+name, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// AzureTLS is Azure with HTTPS, which takes tokens of any identity that are
// well-formed. caFile holds the certificate that the server is known by.
func AzureTLS(t testing.TB) (endpoint, caFile string) {
	t.Helper()
	cert, key := certificate(t)
	return startAzure(t, "https", "--oauth", "basic", "--cert", cert, "--key", key), cert
}

func startAzure(t testing.TB, scheme string, flags ...string) (endpoint string) {
	t.Helper()
	program := Tool(t, "azurite-blob")
	for try := 1; ; try++ {
		addr := address(t)
		_, port, _ := net.SplitHostPort(addr)
		cmd := exec.Command(program, append(slices.Clone(flags), "--silent", "--disableTelemetry", "--skipApiVersionCheck",
			"--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort", port)...)
		cmd.Dir = t.TempDir()
		err := start(t, cmd, func() error { return dial(addr) })
		if err == nil {
			return fmt.Sprintf("%s://%s/%s", scheme, addr, AzureAccount)
		}
		if try == 5 {
			t.Fatal(err)
		}
	}
}

// GCS starts fake-gcs-server, a server of the JSON interface of Google Cloud
// Storage, with one empty bucket. It asks for no credentials.
func GCS(t testing.TB) (endpoint, bucket string) {
	t.Helper()
	program := Tool(t, "fake-gcs-server")
	bucket = "massif-test"
	for try := 1; ; try++ {
		addr := address(t)
		host, port, _ := net.SplitHostPort(addr)
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, bucket), 0o755); err != nil {
			t.Fatal(err)
		}
		endpoint = "http://" + addr
		cmd := exec.Command(program, "-scheme", "http", "-host", host, "-port", port, "-public-host", addr, "-external-url", endpoint,
			"-backend", "memory", "-data", dir, "-log-level", "error")
		cmd.Dir = dir
		err := start(t, cmd, func() error { return dial(addr) })
		if err == nil {
			return endpoint, bucket
		}
		if try == 5 {
			t.Fatal(err)
		}
	}
}

// MinIO starts a MinIO server, whose buckets still have to be made. It is closer
// to Amazon's than the one of S3, but heavy to build, so that it is optional: the
// test is skipped where it is missing, whatever must not be skipped otherwise.
func MinIO(t testing.TB) (endpoint string, creds Credentials) {
	t.Helper()
	program := find("minio")
	if program == "" {
		t.Skip("minio is not installed; scripts/install-tools.sh minio does that")
	}
	creds = Credentials{"massif-access", "massif-secret-of-a-test"}
	for try := 1; ; try++ {
		addr := address(t)
		dir := t.TempDir()
		cmd := exec.Command(program, "server", "--quiet", "--address", addr, "--console-address", "127.0.0.1:0", filepath.Join(dir, "data"))
		cmd.Env = append(os.Environ(), "HOME="+dir, "MINIO_ROOT_USER="+creds.AccessKey, "MINIO_ROOT_PASSWORD="+creds.SecretKey,
			"MINIO_UPDATE=off", "MINIO_BROWSER=off", "MINIO_CALLHOME_ENABLE=off")
		err := start(t, cmd, func() error {
			// It says that it is ready before it is; a stranger's request is refused with
			// 503 until then, and with 403 afterwards.
			resp, err := http.Get("http://" + addr + "/")
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusForbidden {
				return fmt.Errorf("a request without credentials: %s", resp.Status)
			}
			return nil
		})
		if err == nil {
			return "http://" + addr, creds
		}
		if try == 5 {
			t.Fatal(err)
		}
	}
}

// certificate makes a certificate for 127.0.0.1 that signs itself.
func certificate(t testing.TB) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "massif test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert},
		keyFile:  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// Redis starts a Redis server (the Debian package) without persistence and returns its
// address.
func Redis(t testing.TB) (addr string) {
	t.Helper()
	program := Tool(t, "redis-server")
	for try := 1; ; try++ {
		addr := address(t)
		_, port, _ := net.SplitHostPort(addr)
		cmd := exec.Command(program, "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", t.TempDir())
		err := start(t, cmd, func() error { return dial(addr) })
		if err == nil {
			return addr
		}
		if try == 5 {
			t.Fatal(err)
		}
	}
}
