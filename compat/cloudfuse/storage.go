package cloudfuse

import (
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/object/azure"
)

// lyve is the endpoint that Cloudfuse takes where none is configured.
func lyve(region string) string { return "https://s3." + region + ".sv15.lyve.seagate.com" }

// storeURL makes the URL of a store.
func storeURL(scheme, bucket string, q url.Values) string {
	u := url.URL{Scheme: scheme, Host: bucket, Path: "/", RawQuery: q.Encode()}
	return u.String()
}

// subdirectory is the part of a bucket that is mounted, without slashes around it.
func (t *translation) subdirectory(key string) string { return strings.Trim(t.text(key), "/") }

// amazon is an endpoint of Amazon S3 itself, with the region in it if there is one.
var amazon = regexp.MustCompile(`^s3(?:[.-]([a-z0-9-]+))?\.amazonaws\.com$`)

func (t *translation) s3storage() {
	b := t.bucket
	bucket := t.text("s3storage.bucket-name")
	if bucket == "" {
		t.fail("s3storage.bucket-name", "the bucket is not named")
	}
	q := t.s3Server()
	if n := t.whole("s3storage.part-size-mb", 0); n > 0 {
		if n < 5 || n > 5120 {
			t.fail("s3storage.part-size-mb", "%d is not between 5 and 5120", n)
		}
		q.Set("part-size", itoa(n)+"MiB")
	}
	if n := t.whole("s3storage.concurrency", 0); n > 0 {
		q.Set("concurrency", itoa(min(n, 1024)))
	}
	on := t.toggle("s3storage.enable-checksum", true)
	if !on {
		q.Set("checksum", "none")
	}
	if sum := t.choice("s3storage.checksum-algorithm", "crc32", "crc32c", "sha1", "sha256"); sum != "" && sum != "crc32c" && on {
		t.warn("s3storage.checksum-algorithm", "%s is not used: checksums are CRC-32C", strings.ToUpper(sum))
	}
	b.Store = storeURL("s3", bucket, q)
	b.Subdirectory = t.subdirectory("s3storage.subdirectory")
	if t.has("s3storage.enable-dir-marker") && !t.toggle("s3storage.enable-dir-marker", true) {
		b.Markers = "none"
	}
	id, key := t.text("s3storage.key-id"), t.text("s3storage.secret-key")
	switch {
	case id != "" && key != "":
		b.Secrets = &mount.BucketSecrets{AccessKey: id, SecretKey: key}
	case id != "" || key != "":
		// As Cloudfuse: half a pair does not count.
		name := "s3storage.key-id"
		if key != "" {
			name = "s3storage.secret-key"
		}
		t.warn(name, "has no effect: key-id and secret-key belong together")
	}
}

// s3Server is the part of the URL that says which server it is and how to speak to it.
func (t *translation) s3Server() url.Values {
	q := url.Values{}
	region := t.text("s3storage.region")
	if region == "" {
		region = os.Getenv("AWS_REGION")
	}
	endpoint := t.text("s3storage.endpoint")
	if endpoint == "" {
		if region == "" {
			region = "us-east-1"
		}
		endpoint = lyve(region)
		name := "s3storage.endpoint"
		t.warnings = append(t.warnings, name+" is not set: it is Lyve Cloud's, "+endpoint+"; for Amazon write https://s3."+region+".amazonaws.com")
	}
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		t.fail("s3storage.endpoint", "%q is no URL", t.shown("s3storage.endpoint"))
		return q
	}
	if region == "" {
		region = regionOf(u.Hostname())
	}
	q.Set("region", region)
	if profile := t.text("s3storage.profile"); profile != "" {
		q.Set("profile", profile)
	}
	style := t.toggle("s3storage.use-path-style", false)
	if amazon.MatchString(u.Host) && u.Scheme == "https" {
		// Amazon is what a URL without an endpoint means.
		if style {
			q.Set("path-style", "true")
		}
		return q
	}
	q.Set("endpoint", strings.TrimSuffix(endpoint, "/"))
	// A name in front of an address is no host.
	if net.ParseIP(u.Hostname()) == nil || t.has("s3storage.use-path-style") && style {
		q.Set("path-style", boolText(style))
	}
	return q
}

func boolText(on bool) string {
	if on {
		return "true"
	}
	return "false"
}

// regionOf is the region in the name of an endpoint: its second label, or the third
// behind "dualstack".
func regionOf(host string) string {
	labels := strings.Split(host, ".")
	if net.ParseIP(host) != nil || len(labels) < 3 {
		return "us-east-1"
	}
	at := 1
	if labels[1] == "dualstack" {
		at = 2
	}
	if labels[at] == "amazonaws" || labels[at] == "com" {
		return "us-east-1"
	}
	return labels[at]
}

// azureTypes are the kinds of accounts.
var azureTypes = []string{"block", "adls"}

func (t *translation) azstorage() {
	b := t.bucket
	container := t.text("azstorage.container")
	if container == "" {
		t.fail("azstorage.container", "the container is not named")
	}
	scheme := "az"
	if t.choice("azstorage.type", azureTypes...) == "adls" {
		scheme = "adls"
	}
	q, secrets := t.azureAccount()
	if n := t.whole("azstorage.block-size-mb", 0); n > 0 {
		q.Set("part-size", itoa(n)+"MiB")
	}
	if n := t.whole("azstorage.max-concurrency", 0); n > 0 {
		q.Set("concurrency", itoa(min(n, 1024)))
	}
	if tier := t.text("azstorage.tier"); tier != "" && !strings.EqualFold(tier, "none") {
		q.Set("storage-class", strings.ToUpper(tier[:1])+strings.ToLower(tier[1:]))
	}
	sums := []string{"azstorage.update-md5", "azstorage.validate-md5"}
	if t.with("xload") {
		sums = append(sums, "xload.validate-md5")
	}
	for _, name := range sums {
		if t.toggle(name, false) {
			q.Set("content-md5", "true")
		}
	}
	b.Store = storeURL(scheme, container, q)
	b.Secrets = secrets
	b.Subdirectory = t.subdirectory("azstorage.subdirectory")
	b.ListDelay = mount.Duration(t.seconds("azstorage.block-list-on-mount-sec", 0))
	b.FailUnsupported = t.toggle("azstorage.fail-unsupported-op", false)
	b.MarkedOnly = !t.toggle("azstorage.virtual-directory", true)
	b.Markers = "folder"
	t.customerKey(secrets)
	t.azureIdle()
}

// customerKey is the key with which the service encrypts. What asks for it gets it or
// nothing: data must not be stored otherwise.
func (t *translation) customerKey(secrets *mount.BucketSecrets) {
	key := t.text("azstorage.cpk-encryption-key")
	if !t.toggle("azstorage.cpk-enabled", false) {
		return
	}
	if key == "" {
		t.fail("azstorage.cpk-enabled", "cpk-encryption-key is missing")
	}
	secrets.CustomerKey = key
}

// azureIdle are keys that ask for what there is not.
func (t *translation) azureIdle() {
	if t.text("azstorage.filter") != "" {
		t.warn("azstorage.filter", "has no effect: all blobs are shown")
	}
	for _, name := range []string{"azstorage.cap-mbps-read", "azstorage.cap-iops"} {
		if t.signed(name, -1) > 0 {
			t.warn(name, "has no effect: requests are not limited")
		}
	}
	for _, name := range []string{"azstorage.honour-acl", "azstorage.preserve-acl"} {
		if t.toggle(name, false) {
			t.warn(name, "has no effect")
		}
	}
	for _, name := range []string{"azstorage.max-retries", "azstorage.max-retry-timeout-sec", "azstorage.retry-backoff-sec", "azstorage.max-retry-delay-sec"} {
		if t.has(name) {
			t.signed(name, 0)
			t.warn(name, "has no effect: a request that fails for a while is tried again, at growing intervals")
		}
	}
	if t.text("azstorage.telemetry") != "" {
		t.warn("azstorage.telemetry", "has no effect: requests name Massif as the user agent")
	}
}

// azureAccount is the part of the URL that says which account it is and how to speak
// to it, and what is secret about that.
func (t *translation) azureAccount() (url.Values, *mount.BucketSecrets) {
	q := url.Values{}
	set := func(param, val string) {
		if val != "" {
			q.Set(param, val)
		}
	}
	account := t.text("azstorage.account-name")
	if account == "" {
		t.fail("azstorage.account-name", "the account is not named")
	}
	set("account", account)
	plain := t.toggle("azstorage.use-http", false)
	endpoint := t.text("azstorage.endpoint")
	if endpoint == "" && plain {
		endpoint = account + ".blob.core.windows.net"
	}
	set("endpoint", withScheme(endpoint, plain))
	t.proxy(set, plain)
	set("ca-file", t.path("azstorage.ca-cert-file"))
	return q, t.azureCredentials(set)
}

// withScheme puts http:// or https:// before an endpoint.
func withScheme(endpoint string, plain bool) string {
	if endpoint == "" {
		return ""
	}
	if plain {
		endpoint = "http://" + strings.TrimPrefix(strings.TrimPrefix(endpoint, "https://"), "http://")
	} else if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	return strings.TrimSuffix(endpoint, "/")
}

// proxy is that of the scheme in use. Those of the environment are heeded anyway.
func (t *translation) proxy(set func(param, val string), plain bool) {
	key, other := "azstorage.https-proxy", "azstorage.http-proxy"
	if plain {
		key, other = other, key
	} else if t.text(other) != "" {
		t.fail(other, "it is for accounts with use-http: true; write https-proxy")
	}
	t.text(other)
	proxy := t.text(key)
	if proxy != "" && !strings.Contains(proxy, "://") {
		proxy = "http://" + proxy
	}
	if u, err := url.Parse(proxy); err == nil && u.User != nil {
		t.fail(key, "a proxy with a password is given by the environment, in HTTPS_PROXY")
	}
	set("proxy", proxy)
}

// azureCredentials are those of the account's mode of authentication, guessed where
// none is given.
func (t *translation) azureCredentials(set func(param, val string)) *mount.BucketSecrets {
	// All are read: what the mode does not need changes nothing, and that is usual.
	appID, resID, objID := t.text("azstorage.appid"), t.text("azstorage.resid"), t.text("azstorage.objid")
	accountKey, sas := t.text("azstorage.account-key"), t.text("azstorage.sas")
	tenant, client, clientSecret := t.text("azstorage.tenantid"), t.text("azstorage.clientid"), t.text("azstorage.clientsecret")
	tokenFile, token, assertion := t.path("azstorage.oauth-token-path"), t.text("azstorage.workload-identity-token"), t.text("azstorage.user-assertion")
	mode := azure.Mode(t.choice("azstorage.mode", "key", "sas", "msi", "spn", "azcli", "workloadidentity"))
	if mode == "" {
		switch {
		case appID != "" || resID != "" || objID != "":
			mode = azure.MSI
		case accountKey != "":
			mode = azure.Key
		case sas != "":
			mode = azure.SAS
		case client != "" || clientSecret != "" || tenant != "":
			mode = azure.SPN
		default:
			mode = azure.MSI
		}
	}
	secrets := &mount.BucketSecrets{}
	set("auth", string(mode))
	switch mode {
	case azure.Key:
		if accountKey == "" {
			t.fail("azstorage.account-key", "the account key is missing")
		}
		secrets.AccountKey = accountKey
	case azure.SAS:
		if sas == "" {
			t.fail("azstorage.sas", "the SAS is missing")
		}
		secrets.SAS = sas
		if t.reread != "" && t.values["azstorage.sas"].line > 0 {
			secrets.From = &mount.SecretsFile{Program: fsName, File: t.reread}
		}
	case azure.MSI:
		n := 0
		for _, id := range []struct{ param, val string }{{"identity-client-id", appID}, {"identity-resource-id", resID}, {"identity-object-id", objID}} {
			if id.val != "" {
				n++
			}
			set(id.param, id.val)
		}
		if n > 1 {
			t.fail("azstorage.mode", "a managed identity is named by one of appid, resid and objid")
		}
	case azure.SPN, azure.WorkloadIdentity:
		if tenant == "" || client == "" {
			t.fail("azstorage.mode", "%s needs tenantid and clientid", mode)
		}
		if mode == azure.WorkloadIdentity {
			if appID == "" && tokenFile == "" && token == "" {
				t.fail("azstorage.mode", "workloadidentity needs an appid")
			}
			set("identity-client-id", appID)
		} else if clientSecret == "" && tokenFile == "" && token == "" {
			t.fail("azstorage.mode", "spn needs a clientsecret, an oauth-token-path or a workload-identity-token")
		}
		// The first that is there, in Cloudfuse's order.
		switch {
		case clientSecret != "" && mode == azure.SPN:
			secrets.ClientSecret = clientSecret
		case tokenFile != "":
			set("token-file", tokenFile)
		default:
			secrets.Token = token
		}
		secrets.UserAssertion = assertion
	case azure.AzCLI:
		set("tenant-id", tenant)
	}
	if mode == azure.SPN || mode == azure.WorkloadIdentity {
		set("tenant-id", tenant)
		set("client-id", client)
	}
	login := t.text("azstorage.aadendpoint")
	if login != "" && !strings.Contains(login, "://") {
		login = "https://" + login
	}
	set("aad-endpoint", login)
	set("auth-resource", t.text("azstorage.auth-resource"))
	return secrets
}

func init() { mount.RegisterSecrets(fsName, readSecrets) }

// readSecrets takes the secrets of a configuration file that is not encrypted.
func readSecrets(file string) (*mount.BucketSecrets, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(data)
	if err != nil {
		return nil, err
	}
	spec, err := newSettings(c, file, os.Getenv).translate()
	if err != nil {
		return nil, err
	}
	if tree, ok := spec.Tree.Config.(*mount.BucketTree); ok {
		return tree.Secrets, nil
	}
	return nil, nil
}
