package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/massif-fs/massif/internal/testserver"
)

// foreign is the program under the name cloudfuse, with a home of its own.
type foreign struct {
	*world
	program string
}

func underCloudfuse(t *testing.T) *foreign {
	t.Helper()
	w := newWorld(t)
	c := &foreign{w, filepath.Join(w.dir, "bin", "cloudfuse")}
	w.must("personalities", "install", mkdir(t, filepath.Join(w.dir, "bin")), "cloudfuse")
	w.env = append(w.env, "HOME="+mkdir(t, filepath.Join(w.dir, "ann")), "XDG_CACHE_HOME=")
	return c
}

func mkdir(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (c *foreign) try(args ...string) result {
	c.t.Helper()
	cmd := c.command(args...)
	cmd.Path, cmd.Args[0] = c.program, c.program
	return c.finish(cmd)
}

// do runs it, and it must succeed and say nothing on standard error.
func (c *foreign) do(args ...string) string {
	c.t.Helper()
	r := c.try(args...)
	if r.code != 0 || r.err != "" {
		c.t.Fatalf("cloudfuse %q: exit status %d\n%s%s%s", args, r.code, r.out, r.err, c.log())
	}
	return r.out
}

// fails runs it, and it must fail as Cloudfuse does, with one line that begins so.
func (c *foreign) fails(want string, args ...string) {
	c.t.Helper()
	r := c.try(args...)
	line, ok := strings.CutSuffix(r.err, "\n")
	if r.code != 1 || !ok || strings.Contains(line, "\n") || !strings.HasPrefix(line, "cloudfuse error: "+want) {
		c.t.Errorf("cloudfuse %q: exit status %d, %q; want %q", args, r.code, r.err, want)
	}
}

func (c *foreign) log() string {
	data, _ := os.ReadFile(filepath.Join(c.dir, "ann", ".cloudfuse", "cloudfuse.log"))
	return string(data)
}

// config writes a configuration file into the test's directory.
func (c *foreign) config(name string, lines ...string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// listed tells whether "mount list" has a mount point.
func (c *foreign) listed(point string) bool {
	c.t.Helper()
	return strings.Contains(c.do("mount", "list"), " : "+point+"\n")
}

func TestCloudfuseOverDirectory(t *testing.T) {
	needFUSE(t)
	c := underCloudfuse(t)
	data := mkdir(t, filepath.Join(c.dir, "data"))
	c.config("config.yaml", "components: [libfuse, loopbackfs]", "loopbackfs:", "  path: "+data)

	// The configuration in the working directory is the default.
	if out := c.do("mount", c.mnt); out != "" {
		t.Errorf("a mount says %q", out)
	}
	c.write("hello", "there")
	if got := readFile(t, data+"/hello"); got != "there" {
		t.Errorf("behind the mount: %q", got)
	}
	if !c.listed(c.mnt) {
		t.Error("the mount is not listed")
	}
	if _, err := os.Stat(filepath.Join(c.dir, "ann", ".cloudfuse", "cloudfuse.log")); err != nil {
		t.Errorf("log: %v", err)
	}
	c.fails("directory is already mounted", "mount", c.mnt)
	if out := c.do("unmount", c.mnt); out != "Successfully unmounted "+c.mnt+"\n" {
		t.Errorf("unmount: %q", out)
	}
	if c.listed(c.mnt) {
		t.Error("what was unmounted is listed")
	}

	// As fstab has it, and with an option.
	c.do(c.mnt, "-o", "rw,_netdev,--config-file="+filepath.Join(c.dir, "config.yaml"))
	c.do("unmount", "-z", c.mnt)
	eventually(t, "a lazy unmount", func() bool { return !c.listed(c.mnt) })
	c.do(filepath.Join(c.dir, "config.yaml"), c.mnt, "-o", "ro,dev")
	if err := os.WriteFile(filepath.Join(c.mnt, "no"), nil, 0o644); err == nil {
		t.Error("a read-only mount was written")
	}
	// A pattern.
	if out := c.do("unmount", c.dir+"/m*"); !strings.HasSuffix(out, " mounts were successfully unmounted\n") {
		t.Errorf("unmount: %q", out)
	}
	// Encrypted.
	c.env = append(c.env, "CLOUDFUSE_SECURE_CONFIG_PASSPHRASE=correct horse")
	c.do("secure", "encrypt", "--config-file=config.yaml", "--output-file=config.aes")
	c.do("mount", c.mnt, "--config-file=config.aes")
	if c.read("hello") != "there" {
		t.Error("the mount shows another directory")
	}
	c.do("unmount", c.mnt)
}

func TestCloudfuseHealth(t *testing.T) {
	needFUSE(t)
	c := underCloudfuse(t)
	data, out := mkdir(t, filepath.Join(c.dir, "data")), mkdir(t, filepath.Join(c.dir, "out"))
	c.config("config.yaml", "components: [libfuse, loopbackfs]", "loopbackfs:", "  path: "+data,
		"health_monitor:", "  enable-monitoring: true", "  stats-poll-interval-sec: 1", "  process-monitor-interval-sec: 1", "  output-path: "+out)
	c.do("mount", c.mnt)
	mkdir(t, filepath.Join(c.mnt, "new"))
	var seen struct{ cpu, memory, counters bool }
	var file string
	eventually(t, "figures of the mount", func() bool {
		files, _ := filepath.Glob(filepath.Join(out, "monitor_*.json"))
		if len(files) != 1 {
			return false
		}
		file = files[0]
		var all []struct {
			CPUUsage, MemoryUsage string
			CloudfuseStats        []struct{ Value map[string]int64 }
		}
		if json.Unmarshal([]byte(readFile(t, file)), &all) != nil {
			return false // it is being written
		}
		for _, e := range all {
			seen.cpu = seen.cpu || strings.HasSuffix(e.CPUUsage, "%")
			seen.memory = seen.memory || strings.HasSuffix(e.MemoryUsage, "k")
			for _, s := range e.CloudfuseStats {
				seen.counters = seen.counters || s.Value["CreateDir"] == 1
			}
		}
		return seen.cpu && seen.memory && seen.counters
	})
	pid := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "monitor_"), ".json")
	if got := c.do("health-monitor", "stop", "--pid="+pid); got != "Successfully stopped health monitor\n" {
		t.Errorf("stop: %q", got)
	}
	// It ends when it is told to, and is started again, and ends with the mount.
	eventually(t, "the end of the monitor", func() bool { return c.try("health-monitor", "stop", "--pid="+pid).code == 1 })
	c.do("health-monitor", "--pid="+pid, "--config-file=config.yaml")
	c.do("unmount", c.mnt)
	eventually(t, "the end of the monitor", func() bool { return c.try("health-monitor", "stop", "--pid="+pid).code == 1 })
	c.fails("the process 1 serves no mount", "health-monitor", "--pid=1")
}

func TestCloudfuseRefuses(t *testing.T) {
	c := underCloudfuse(t)
	c.fails("missing command options")
	c.fails("mount path not provided", "mount")
	c.fails("mount directory does not exist", "mount", filepath.Join(c.dir, "nothing"))
	c.fails("failed to initialize new pipeline", "mount", c.mnt)
	c.fails("failed to unmount "+c.mnt+": "+c.mnt+" is not mounted", "unmount", c.mnt)
	c.config("config.yaml", "s3storage: {bucket-name: b, endpoint: 'http://127.0.0.1:1', key-id: a, secret-key: b}")
	c.fails("Endpoint Error: ", "mount", c.mnt)
	c.fails("Endpoint Error: ", "mount", "all", c.mnt)
	c.fails("no passphrase provided to decrypt the config file", "mount", c.mnt, "--secure-config")
	if out := c.do("version"); !strings.HasPrefix(out, "cloudfuse version: ") {
		t.Errorf("version: %q", out)
	}
}

// What a server answers to what is wrong, in the words that programs look for.
func TestCloudfuseChecksS3(t *testing.T) {
	endpoint, bucket, creds := testserver.S3(t)
	c := underCloudfuse(t)
	config := func(bucket, key, secret string) {
		c.config("config.yaml", "s3storage:", "  bucket-name: "+bucket, "  endpoint: "+endpoint, "  key-id: "+key, "  secret-key: "+secret)
	}
	config(bucket, creds.AccessKey, creds.SecretKey)
	c.do("mount", c.mnt, "--dry-run")
	config(bucket, creds.AccessKey, "wrong")
	c.fails("Secret Error: ", "mount", c.mnt, "--dry-run")
	config(bucket, "nobody", creds.SecretKey)
	c.fails("Credential or Endpoint Error: ", "mount", c.mnt, "--dry-run")
	config("no-such-bucket", creds.AccessKey, creds.SecretKey)
	c.fails("Bucket Error: ", "mount", c.mnt, "--dry-run")
	// The keys of the environment, and the first bucket there is.
	c.env = append(c.env, "AWS_ACCESS_KEY_ID="+creds.AccessKey, "AWS_SECRET_ACCESS_KEY="+creds.SecretKey)
	c.config("config.yaml", "s3storage:", "  endpoint: "+endpoint)
	r := c.try("mount", c.mnt, "--dry-run")
	if r.code != 0 || r.err != "cloudfuse warning: s3storage.bucket-name is not set: the first bucket is mounted, "+bucket+"\n" {
		t.Errorf("without a bucket's name: exit status %d, %q", r.code, r.err)
	}
}

func TestCloudfuseChecksAzure(t *testing.T) {
	endpoint := testserver.Azure(t)
	testserver.AzureContainer(t, endpoint, "letters")
	c := underCloudfuse(t)
	c.config("config.yaml", "azstorage:", "  account-name: "+testserver.AzureAccount, "  container: letters", "  endpoint: "+endpoint, "  account-key: "+testserver.AzureKey)
	c.do("mount", c.mnt, "--dry-run")
	c.fails("failed to initialize new pipeline: check: container \"absent\"", "mount", c.mnt, "--dry-run", "--container-name=absent")
	c.env = append(c.env, "AZURE_STORAGE_ACCESS_KEY=d3Jvbmc=")
	c.fails("failed to authenticate credentials for azstorage: ", "mount", c.mnt, "--dry-run")
}

func TestConvert(t *testing.T) {
	w := newWorld(t)
	c := &foreign{world: w}
	c.config("cloudfuse.yaml", "s3storage:\n  bucket-name: photos\n  endpoint: https://s3.eu-west-1.amazonaws.com\n  region: eu-west-1\n  key-id: AKIA\n  secret-key: geheim\n  upload-cutoff-mb: 9\nfile_cache:\n  path: /cache\n  max-size-mb: 100")
	r := w.run("convert", "cloudfuse.yaml")
	if r.code != 0 || strings.Contains(r.out+r.err, "geheim") || !strings.Contains(r.err, "cloudfuse.yaml, line 7: s3storage.upload-cutoff-mb has no effect") || !strings.Contains(r.err, "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY") {
		t.Fatalf("exit status %d\n%s%s", r.code, r.out, r.err)
	}
	c.config("spec.yaml", r.out)
	var spec struct {
		Tree  map[string]any
		Mount map[string]any
	}
	if err := json.Unmarshal([]byte(w.must("mount", "spec.yaml", "--print-spec")), &spec); err != nil {
		t.Fatal(err)
	}
	if spec.Tree["kind"] != "bucket" || spec.Tree["store"] != "s3://photos/?region=eu-west-1" || spec.Mount["cache-dir"] != "/cache" || spec.Mount["cache-size"] != "100MiB" {
		t.Errorf("the spec is %v, %v", spec.Tree, spec.Mount)
	}
	w.refuse(1, "failed to initialize new pipeline: config file: open missing.yaml", "convert", "missing.yaml")
}
