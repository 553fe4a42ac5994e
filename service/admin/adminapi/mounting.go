package adminapi

import (
	"encoding/json"
	"time"
)

// MountSettings is what a mount is told for the token of a volume.
type MountSettings struct {
	VolumeID    string `json:"volumeID" doc:"ID of the volume"`
	VolumeName  string `json:"volumeName" doc:"name of the volume"`
	TokenID     string `json:"tokenID" doc:"ID of the token"`
	BlockSize   int64  `json:"blockSize" unit:"bytes" doc:"largest block"`
	Compression string `json:"compression" doc:"of the blocks"`

	Path     string     `json:"path,omitempty" doc:"directory of the volume that the token is limited to"`
	ReadOnly bool       `json:"readOnly,omitempty" doc:"whether the token allows no change"`
	Flags    string     `json:"flags,omitempty" doc:"mount options that the volume and the token demand"`
	Expires  *time.Time `json:"expires,omitempty" doc:"when the token ends"`

	Metadata    Endpoint    `json:"metadata" doc:"the metadata server"`
	BlockAccess string      `json:"blockAccess" enum:"presigned,server,direct" doc:"how blocks are reached"`
	Blocks      *BlockStore `json:"blocks,omitempty" doc:"the store, where blockAccess is direct"`
	Proxies     [][]string  `json:"proxies,omitempty" doc:"addresses of the proxies, group by group"`
	MaxProxied  int64       `json:"maxProxied,omitempty" doc:"how many blocks of each file go through proxies; 0: all"`

	Encryption bool            `json:"encryption,omitempty" doc:"whether the volume is encrypted end to end"`
	Seal       json.RawMessage `json:"seal,omitempty" doc:"wrapped keys of the volume, once it has a passphrase"`
}

// Endpoint is a server and how it is recognized.
type Endpoint struct {
	Address    string `json:"address" doc:"HOST:PORT"`
	ServerName string `json:"serverName,omitempty" doc:"name in its certificate"`
	CA         string `json:"ca,omitempty" doc:"PEM of the authority that signed its certificate"`
}

// BlockStore is an object store with its credentials.
type BlockStore struct {
	URL         string `json:"url" doc:"of the store, with the volume's prefix"`
	AccessKeyID string `json:"accessKeyID,omitempty" doc:"S3 credentials; without them, those of the environment"`
	SecretKey   string `json:"secretKey,omitempty" doc:"S3 credentials"`
}

// SealChange sets the wrapped keys of an encrypted volume.
type SealChange struct {
	// Old is what the volume has, empty before the first. A change based on
	// anything else is a conflict.
	Old json.RawMessage `json:"old,omitempty" doc:"what is replaced, as the mount settings have it; nothing before the first passphrase"`
	New json.RawMessage `json:"new" doc:"what replaces it: a JSON object of at most 16 KiB"`
}

// ServedVolume is a volume as its metadata server knows it.
type ServedVolume struct {
	Volume Volume          `json:"volume" doc:"the volume"`
	Store  BlockStore      `json:"store" doc:"its object store"`
	Seal   json.RawMessage `json:"seal,omitempty" doc:"wrapped keys, once there is a passphrase"`
}

// ServedVolumes is the answer to a metadata server that asks what it serves.
type ServedVolumes struct {
	Server  MetadataServer `json:"server" doc:"the metadata server itself"`
	Volumes []ServedVolume `json:"volumes" doc:"its volumes, retired ones included"`
	Seq     uint64         `json:"seq" doc:"number of the newest event that is contained in this"`
}

// AuthRequest asks whether a token opens a volume of the metadata server. The
// token itself is not sent.
type AuthRequest struct {
	TokenSHA256 string `json:"tokenSHA256" doc:"SHA-256 of the token as it is written, lower case, in hex"`
	Volume      string `json:"volume" doc:"ID or name of the volume"`
	Remote      string `json:"remote,omitempty" doc:"address of who showed the token"`
}

// Grant is what a token of a volume allows.
type Grant struct {
	TokenID  string     `json:"tokenID" doc:"ID of the token"`
	Volume   string     `json:"volume" doc:"ID of the volume"`
	Path     string     `json:"path,omitempty" doc:"directory it is limited to"`
	ReadOnly bool       `json:"readOnly,omitempty" doc:"whether it allows no change"`
	Flags    string     `json:"flags,omitempty" doc:"mount options that the volume and the token demand"`
	Expires  *time.Time `json:"expires,omitempty" doc:"when it ends"`
}

// Kinds of events.
const (
	EventToken  = "token"  // a token of a volume was changed or revoked: its sessions end
	EventVolume = "volume" // a volume was made, changed or retired
)

// Event tells a metadata server what has changed.
type Event struct {
	Seq    uint64 `json:"seq" doc:"consecutive number"`
	Kind   string `json:"kind" enum:"token,volume" doc:"what has changed"`
	Token  string `json:"token,omitempty" doc:"ID of the token"`
	Volume string `json:"volume" doc:"ID of the volume"`
}

// Events is the answer to a metadata server that waits for events.
type Events struct {
	Events []Event `json:"events" doc:"in order"`
	Seq    uint64  `json:"seq" doc:"value of \"after\" for the next request"`
	// Reset says that events before these are lost: everything must be asked anew.
	Reset bool `json:"reset,omitempty" doc:"some events before these are gone: ask for everything anew"`
}

// CertificateRequest asks for a certificate for a metadata server.
type CertificateRequest struct {
	CSR string `json:"csr" doc:"PEM of a certificate signing request with an ECDSA or Ed25519 key; its names are not used"`
}

// Certificate is a certificate and who vouches for it.
type Certificate struct {
	Chain string `json:"chain" doc:"PEM of the certificate and of those it builds on"`
	CA    string `json:"ca" doc:"PEM of the authority"`
}
