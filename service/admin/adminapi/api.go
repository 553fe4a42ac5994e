// Package adminapi is what the admin server and its clients say to each other:
// the entities, the requests beyond them, the client, and how a client knows that
// it speaks to the right server. It is a leaf: whoever mounts needs it, and none
// of the server.
//
// # Entities
//
// Each entity is a JSON object of a table: GET /v1/TABLE lists, POST /v1/TABLE
// makes one, GET, PATCH and DELETE /v1/TABLE/ID read, change and remove one. An ID
// in a path or a reference may also be the entity's name, where no other one in
// sight of the token has it. PATCH changes the fields that it names. The struct
// tags below say what a field is, and the server, the command line and the OpenAPI
// document all read them there:
//
//	doc:"…"        one line of help
//	access:"ro"    given by the server
//	access:"once"  chosen when the entity is made
//	access:"write" a secret: goes in, never comes out
//	access:"shown" a secret: comes out once, in the answer to its creation
//	ref:"TABLE"    names an entity of that table
//	unit:"bytes", unit:"seconds"
//	enum:"a,b"     the values there are
//
// # Tokens
//
// Every request carries "Authorization: Bearer TOKEN". A token is 128 random
// bits, written in the form of a UUID. The server keeps only its SHA-256. There are
// three kinds: of an account (with a role), of a volume (for mounts), of a
// metadata server.
package adminapi

import "time"

// Tables of the API, in the order of help texts.
const (
	TableAccounts        = "accounts"
	TableStores          = "stores"
	TableMetadataServers = "metadata-servers"
	TableProxyGroups     = "proxy-groups"
	TableVolumes         = "volumes"
	TableTokens          = "tokens"
)

// Common is what every entity has.
type Common struct {
	ID      string    `json:"id" access:"ro" doc:"UUID"`
	Name    string    `json:"name,omitempty" doc:"1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit"`
	Account string    `json:"account,omitempty" access:"once" ref:"accounts" doc:"account that it belongs to; without one, all may use it"`
	Notes   string    `json:"notes,omitempty" doc:"free text, at most 4096 bytes"`
	Created time.Time `json:"created" access:"ro"`
	Changed time.Time `json:"changed" access:"ro"`
}

// Base returns the part that every entity has.
func (c *Common) Base() *Common { return c }

// Entity is a pointer to one of the entities.
type Entity interface{ Base() *Common }

// Account owns volumes and tokens.
type Account struct {
	Common
	System   bool `json:"system,omitempty" access:"ro" doc:"the account of the installation: its tokens reach all accounts"`
	Disabled bool `json:"disabled,omitempty" doc:"tokens of the account are refused, also those of its volumes"`
}

// Store is an object store.
type Store struct {
	Common
	URL         string `json:"url" access:"once" doc:"where it is: s3://BUCKET/PREFIX?region=NAME, or file:///DIR on the metadata server"`
	AccessKeyID string `json:"accessKeyID,omitempty" doc:"credentials of an S3 store; without them the metadata server uses those of its environment"`
	SecretKey   string `json:"secretKey,omitempty" access:"write" doc:"secret that belongs to the access key"`
	HasSecret   bool   `json:"hasSecret,omitempty" access:"ro" doc:"whether a secret key is kept"`
}

// MetadataServer serves the metadata of volumes.
type MetadataServer struct {
	Common
	Address string `json:"address" doc:"HOST:PORT under which mounts reach it"`
	Token   string `json:"token,omitempty" access:"shown" doc:"with which it shows itself to the admin server"`
}

// ProxyGroup is a set of block caches.
type ProxyGroup struct {
	Common
	Addresses []string `json:"addresses,omitempty" doc:"HOST:PORT of each proxy"`
}

// BlockAccess says how the mounts of a volume reach its blocks.
const (
	// BlocksPresigned: by short-lived URLs, one a block, that the metadata server
	// signs; where the store cannot do that, as BlocksServer.
	BlocksPresigned = "presigned"
	// BlocksServer: through the metadata server.
	BlocksServer = "server"
	// BlocksDirect: with the store's credentials. Whoever may mount the volume may
	// then read and delete whatever they allow.
	BlocksDirect = "direct"
)

// Volume is a shared volume.
type Volume struct {
	Common
	Store          string     `json:"store" access:"once" ref:"stores" doc:"object store of the blocks"`
	MetadataServer string     `json:"metadataServer" access:"once" ref:"metadata-servers" doc:"metadata server of the volume"`
	ProxyGroups    []string   `json:"proxyGroups,omitempty" ref:"proxy-groups" doc:"proxy groups that mounts may use"`
	BlockSize      int64      `json:"blockSize,omitempty" access:"once" unit:"bytes" doc:"largest block, a power of two from 256KiB to 8MiB (default 4MiB)"`
	Compression    string     `json:"compression,omitempty" enum:"lz4,zstd,none" doc:"of the blocks (default lz4)"`
	InlineLimit    *int64     `json:"inlineLimit,omitempty" access:"once" unit:"bytes" doc:"files up to this size live in the metadata, at most 64KiB (default 4KiB)"`
	Encryption     bool       `json:"encryption,omitempty" access:"once" doc:"end-to-end encryption with a passphrase that only the mounts know"`
	Retention      *int64     `json:"retention,omitempty" unit:"seconds" doc:"how long deleted and overwritten data can be brought back; 0: not at all, -1: for ever (default 7d)"`
	QuotaBytes     int64      `json:"quotaBytes,omitempty" unit:"bytes" doc:"limit of the volume's size; 0: none"`
	QuotaInodes    int64      `json:"quotaInodes,omitempty" doc:"limit of the number of files and directories; 0: none"`
	MaxProxied     int64      `json:"maxProxied,omitempty" doc:"how many blocks of each file, from its beginning, go through proxies; 0: all"`
	BlockAccess    string     `json:"blockAccess,omitempty" enum:"presigned,server,direct" doc:"how mounts reach blocks: URLs for one block each, through the metadata server, or with the store's credentials (default presigned)"`
	Flags          string     `json:"flags,omitempty" doc:"mount options that every mount gets, divided by commas, such as ro,noexec,root-squash"`
	Sealed         bool       `json:"sealed,omitempty" access:"ro" doc:"whether the first mount has set a passphrase"`
	Retired        *time.Time `json:"retired,omitempty" access:"ro" doc:"when it was deleted; mounts are refused since"`
}

// Kinds of tokens.
const (
	TokenAccount        = "account"
	TokenVolume         = "volume"
	TokenMetadataServer = "metadata-server"
)

// Roles of an account's tokens, each with all rights of the next.
const (
	RoleOwner    = "owner"    // everything of the account
	RoleOperator = "operator" // volumes and their tokens
	RoleAuditor  = "auditor"  // reading, the audit log included
)

// Token is a bearer token, without its secret but in the answer to its creation.
type Token struct {
	Common
	Kind           string     `json:"kind" access:"once" enum:"account,volume,metadata-server" doc:"what it opens (default: volume, where one is named)"`
	Role           string     `json:"role,omitempty" access:"once" enum:"owner,operator,auditor" doc:"of a token of an account (default auditor)"`
	Volume         string     `json:"volume,omitempty" access:"once" ref:"volumes" doc:"of a token of a volume"`
	MetadataServer string     `json:"metadataServer,omitempty" access:"once" ref:"metadata-servers" doc:"of a token of a metadata server"`
	Path           string     `json:"path,omitempty" access:"once" doc:"directory of the volume that the token is limited to"`
	ReadOnly       bool       `json:"readOnly,omitempty" doc:"the volume cannot be changed with it"`
	Flags          string     `json:"flags,omitempty" doc:"mount options that its mounts get, besides those of the volume"`
	Expires        *time.Time `json:"expires,omitempty" doc:"when it ends; without it, never"`
	Revoked        *time.Time `json:"revoked,omitempty" access:"ro" doc:"when it was deleted"`
	LastUsed       *time.Time `json:"lastUsed,omitempty" access:"ro" doc:"when it was last used, to the hour"`
	Token          string     `json:"token,omitempty" access:"shown" doc:"the secret itself"`
}

// AuditRecord is a line of the audit log.
type AuditRecord struct {
	Seq     uint64    `json:"seq" doc:"consecutive number, from 1"`
	Time    time.Time `json:"time" doc:"when"`
	Token   string    `json:"token,omitempty" doc:"ID of the token that asked; empty: none that is known"`
	Account string    `json:"account,omitempty" doc:"account whose record it is"`
	Remote  string    `json:"remote,omitempty" doc:"address that asked"`
	Action  string    `json:"action" doc:"create, update, delete, authenticate, mount, seal, certificate or start"`
	Table   string    `json:"table,omitempty" doc:"table of the entity"`
	Entity  string    `json:"entity,omitempty" doc:"ID of the entity"`
	Name    string    `json:"name,omitempty" doc:"name of the entity"`
	Fields  []string  `json:"fields,omitempty" doc:"names of the fields that were given"`
	Result  string    `json:"result" enum:"ok,refused,failed" doc:"how it ended"`
	Detail  string    `json:"detail,omitempty" doc:"why it was refused"`
}

// List is the answer to a listing.
type List[T any] struct {
	Items []T    `json:"items" doc:"by ID"`
	Next  string `json:"next,omitempty" doc:"value of \"after\" for the next page; empty: that was all"`
}

// Whoami tells what a token is.
type Whoami struct {
	Token       Token  `json:"token" doc:"the token of the request"`
	AccountName string `json:"accountName,omitempty" doc:"name of its account"`
	System      bool   `json:"system,omitempty" doc:"whether that is the account of the installation"`
	Version     string `json:"version,omitempty" doc:"of the server"`
}

// Error is the body of an answer that is no success.
type Error struct {
	Code    string `json:"code" doc:"invalid, unauthorized, forbidden, not-found, conflict, too-many, too-large or internal"`
	Message string `json:"message" doc:"one sentence that names what is wrong"`
	Status  int    `json:"-"`
}

func (e *Error) Error() string { return e.Message }

// Codes of errors.
const (
	CodeInvalid      = "invalid"
	CodeUnauthorized = "unauthorized"
	CodeForbidden    = "forbidden"
	CodeNotFound     = "not-found"
	CodeConflict     = "conflict"
	CodeTooMany      = "too-many"
	CodeTooLarge     = "too-large"
	CodeInternal     = "internal"
)
