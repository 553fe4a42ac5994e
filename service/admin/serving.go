package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// What mounts and metadata servers ask.

// getMount answers GET /v1/mount.
func (s *Server) getMount(q *request) (any, error) {
	var m adminapi.MountSettings
	err := s.db.View(q.ctx, func(r kv.Reader) error {
		v, err := openVolume(r, q.who.token)
		if err != nil {
			return err
		}
		server, err := read[adminapi.MetadataServer](r, adminapi.TableMetadataServers, v.MetadataServer)
		if err != nil {
			return err
		}
		t := q.who.token
		m = adminapi.MountSettings{
			VolumeID: v.ID, VolumeName: v.Name, TokenID: t.ID, BlockSize: v.BlockSize, Compression: v.Compression,
			Path: t.Path, ReadOnly: t.ReadOnly, Flags: joinFlags(v.Flags, t.Flags), Expires: t.Expires,
			Metadata:    adminapi.Endpoint{Address: server.Address, ServerName: MetadataServerName(server.ID), CA: s.authority.pem()},
			BlockAccess: v.BlockAccess, MaxProxied: v.MaxProxied, Encryption: v.Encryption,
		}
		if v.BlockAccess == adminapi.BlocksDirect {
			if m.Blocks, err = blockStore(r, v); err != nil {
				return err
			}
		}
		for _, id := range v.ProxyGroups {
			g, err := read[adminapi.ProxyGroup](r, adminapi.TableProxyGroups, id)
			if err != nil {
				return err
			}
			m.Proxies = append(m.Proxies, g.Addresses)
		}
		m.Seal, err = readSeal(r, v.ID)
		return err
	})
	if err == nil {
		s.audit(adminapi.AuditRecord{
			Time: q.now, Token: q.who.token.ID, Account: q.who.token.Account, Remote: q.who.remote,
			Action: "mount", Table: adminapi.TableVolumes, Entity: m.VolumeID, Name: m.VolumeName, Result: "ok",
		})
	}
	return m, err
}

// openVolume returns the volume of a token, unless it is deleted.
func openVolume(r kv.Reader, t *adminapi.Token) (*adminapi.Volume, error) {
	v, err := read[adminapi.Volume](r, adminapi.TableVolumes, t.Volume)
	if errors.Is(err, kv.ErrNotFound) || err == nil && v.Retired != nil {
		return nil, refuse(adminapi.CodeNotFound, "the volume of the token is deleted")
	}
	return v, err
}

func joinFlags(a, b string) string {
	return strings.Trim(a+","+b, ",")
}

// blockStore is the store of a volume, with credentials.
func blockStore(r kv.Reader, v *adminapi.Volume) (*adminapi.BlockStore, error) {
	st, err := read[adminapi.Store](r, adminapi.TableStores, v.Store)
	if err != nil {
		return nil, fmt.Errorf("store of volume %s: %w", v.ID, err)
	}
	return &adminapi.BlockStore{URL: volumeURL(st.URL, v.ID), AccessKeyID: st.AccessKeyID, SecretKey: st.SecretKey}, nil
}

// volumeURL is the place of a volume in a store: each has a directory of its own,
// named by its ID, so that volumes of one store never meet.
func volumeURL(store, id string) string {
	path, query, has := strings.Cut(store, "?")
	path = strings.TrimSuffix(path, "/") + "/" + id
	if has {
		path += "?" + query
	}
	return path
}

func readSeal(r kv.Reader, id string) (json.RawMessage, error) {
	data, err := r.Get([]byte("s/" + id))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	return bytes.Clone(data), err
}

const maxSeal = 16 << 10

// putSeal answers PUT /v1/mount/seal.
func (s *Server) putSeal(q *request) (any, error) {
	var in adminapi.SealChange
	if err := decodeStrict(q.body, &in); err != nil {
		return nil, err
	}
	var object map[string]any
	if len(in.New) > maxSeal || json.Unmarshal(in.New, &object) != nil || object == nil {
		return nil, invalid("field \"new\": use a JSON object of at most %d bytes", maxSeal)
	}
	t := q.who.token
	if t.ReadOnly || t.Path != "" {
		return nil, refuse(adminapi.CodeForbidden, "the passphrase is set with a token that may change the whole volume")
	}
	err := s.db.Update(q.ctx, func(w kv.Txn) error {
		v, err := openVolume(w, t)
		if err != nil {
			return err
		}
		if !v.Encryption {
			return refuse(adminapi.CodeConflict, "the volume %s is not encrypted", v.Name)
		}
		have, err := readSeal(w, v.ID)
		if err != nil {
			return err
		}
		if !sameJSON(have, in.Old) {
			if len(in.Old) == 0 {
				return refuse(adminapi.CodeConflict, "the volume %s has a passphrase already", v.Name)
			}
			return refuse(adminapi.CodeConflict, "the passphrase of the volume %s was changed meanwhile", v.Name)
		}
		w.Put([]byte("s/"+v.ID), in.New)
		if v.Sealed = true; len(have) == 0 {
			if err := putJSON(w, entityKey(adminapi.TableVolumes, v.ID), v); err != nil {
				return err
			}
		}
		if err := putEvents(w, []adminapi.Event{{Kind: adminapi.EventVolume, Volume: v.ID}}); err != nil {
			return err
		}
		return appendAudit(w, adminapi.AuditRecord{
			Time: q.now, Token: t.ID, Account: t.Account, Remote: q.who.remote,
			Action: "seal", Table: adminapi.TableVolumes, Entity: v.ID, Name: v.Name, Result: "ok",
		})
	})
	if err != nil {
		return nil, err
	}
	s.tell()
	return nil, s.db.Sync(q.ctx)
}

// sameJSON compares without regard to white space.
func sameJSON(a, b json.RawMessage) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

func decodeStrict(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return invalid("the request's body: %v", err)
	}
	if d.More() {
		return invalid("the request's body is not one JSON object")
	}
	return nil
}

// getServed answers GET /v1/serve/volumes.
func (s *Server) getServed(q *request) (any, error) {
	out := adminapi.ServedVolumes{Volumes: []adminapi.ServedVolume{}}
	err := s.db.View(q.ctx, func(r kv.Reader) error {
		server, err := read[adminapi.MetadataServer](r, adminapi.TableMetadataServers, q.who.token.MetadataServer)
		if err != nil {
			return err
		}
		out.Server = *server
		if out.Seq, err = counter(r, "event"); err != nil {
			return err
		}
		return scan(r, adminapi.SchemaOf(adminapi.TableVolumes), "", func(e adminapi.Entity) (bool, error) {
			v := e.(*adminapi.Volume)
			if v.MetadataServer != server.ID {
				return true, nil
			}
			st, err := blockStore(r, v)
			if err != nil {
				return false, err
			}
			seal, err := readSeal(r, v.ID)
			out.Volumes = append(out.Volumes, adminapi.ServedVolume{Volume: *v, Store: *st, Seal: seal})
			return true, err
		})
	})
	return out, err
}

// deleteServed answers DELETE /v1/serve/volumes/ID: the last trace of a deleted volume
// goes, with its tokens.
func (s *Server) deleteServed(q *request) (any, error) {
	err := s.db.Update(q.ctx, func(w kv.Txn) error {
		if !isUUID(q.id) {
			return refuse(adminapi.CodeNotFound, "there is no such volume")
		}
		v, err := read[adminapi.Volume](w, adminapi.TableVolumes, q.id)
		switch {
		case errors.Is(err, kv.ErrNotFound) || err == nil && v.MetadataServer != q.who.token.MetadataServer:
			return refuse(adminapi.CodeNotFound, "there is no such volume")
		case err != nil:
			return err
		case v.Retired == nil:
			return refuse(adminapi.CodeConflict, "the volume %s is not deleted", v.Name)
		}
		var tokens []string
		err = scan(w, adminapi.SchemaOf(adminapi.TableTokens), "", func(e adminapi.Entity) (bool, error) {
			if t := e.(*adminapi.Token); t.Volume == v.ID {
				tokens = append(tokens, t.ID)
			}
			return true, nil
		})
		if err != nil {
			return err
		}
		for _, id := range tokens {
			if err := dropToken(w, id); err != nil {
				return err
			}
		}
		w.Delete([]byte(entityKey(adminapi.TableVolumes, v.ID)))
		w.Delete([]byte("s/" + v.ID))
		return appendAudit(w, adminapi.AuditRecord{
			Time: q.now, Token: q.who.token.ID, Account: v.Account, Remote: q.who.remote,
			Action: "delete", Table: adminapi.TableVolumes, Entity: v.ID, Name: v.Name, Result: "ok", Detail: "its data is removed",
		})
	})
	if err != nil {
		return nil, err
	}
	return nil, s.db.Sync(q.ctx)
}

// dropToken removes every record of a token.
func dropToken(w kv.Txn, id string) error {
	hash, err := w.Get([]byte("t/" + id))
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return err
	}
	if len(hash) == sha256.Size {
		w.Delete([]byte(hashIndex([sha256.Size]byte(hash))))
	}
	w.Delete([]byte("t/" + id))
	w.Delete([]byte(entityKey(adminapi.TableTokens, id)))
	return nil
}

// postAuthenticate answers POST /v1/serve/authenticate.
func (s *Server) postAuthenticate(q *request) (any, error) {
	var in adminapi.AuthRequest
	if err := decodeStrict(q.body, &in); err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(in.TokenSHA256)
	if err != nil || len(raw) != sha256.Size {
		return nil, invalid("field \"tokenSHA256\": use 64 hexadecimal digits")
	}
	var g adminapi.Grant
	var t *adminapi.Token
	err = s.db.View(q.ctx, func(r kv.Reader) (err error) {
		g, t, err = grant(r, q.who.token.MetadataServer, [sha256.Size]byte(raw), in.Volume, q.now)
		return err
	})
	if e, ours := asRefusal(err); err != nil && ours {
		a := adminapi.AuditRecord{Time: q.now, Remote: cut(in.Remote, 63), Action: "authenticate", Result: "refused", Detail: e.Message}
		if t != nil {
			a.Token, a.Account = t.ID, t.Account
		}
		if s.limit.wait(in.Remote, [sha256.Size]byte(raw)) == 0 {
			s.audit(a) // not more of them than the limit lets through
		}
		s.limit.failed(in.Remote)
	}
	if err != nil {
		return nil, err
	}
	s.touch(t)
	return g, nil
}

// grant decides what a token allows at a metadata server. All refusals of tokens have
// the code "forbidden": "unauthorized" would be about the server's own token.
func grant(r kv.Reader, server string, hash [sha256.Size]byte, volume string, now time.Time) (g adminapi.Grant, t *adminapi.Token, err error) {
	deny := func(format string, args ...any) (adminapi.Grant, *adminapi.Token, error) {
		return adminapi.Grant{}, t, refuse(adminapi.CodeForbidden, format, args...)
	}
	t, err = findToken(r, hash)
	if errors.Is(err, kv.ErrNotFound) {
		t = nil
		return deny("the token is not known")
	}
	if err != nil {
		return g, nil, err
	}
	if err := checkToken(t, now); err != nil {
		return deny("%v", err)
	}
	if t.Kind != adminapi.TokenVolume {
		return deny("the token is not one of a volume")
	}
	v, err := openVolume(r, t)
	if err != nil {
		if _, ours := asRefusal(err); ours {
			return deny("%v", err)
		}
		return g, t, err
	}
	if v.MetadataServer != server {
		return deny("the volume of the token is served by another metadata server")
	}
	if volume != "" && volume != v.ID && volume != v.Name {
		return deny("the token is for another volume")
	}
	a, err := read[adminapi.Account](r, adminapi.TableAccounts, v.Account)
	if err != nil {
		return g, t, err
	}
	if a.Disabled {
		return deny("the account of the volume is disabled")
	}
	return adminapi.Grant{TokenID: t.ID, Volume: v.ID, Path: t.Path, ReadOnly: t.ReadOnly, Flags: joinFlags(v.Flags, t.Flags), Expires: t.Expires}, t, nil
}

// maxEvents is how many events are kept.
const maxEvents = 10_000

// putEvents numbers and stores events, and drops old ones.
func putEvents(w kv.Txn, events []adminapi.Event) error {
	for _, e := range events {
		seq, err := next(w, "event")
		if err != nil {
			return err
		}
		e.Seq = seq
		data, err := json.Marshal(&e)
		if err != nil {
			return err
		}
		w.Put(seqKey('v', seq), data)
		if seq > maxEvents {
			w.Delete(seqKey('v', seq-maxEvents))
		}
	}
	return nil
}

// tell wakes who waits for events.
func (s *Server) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.news)
	s.news = make(chan struct{})
}

func (s *Server) waitChannel() (news <-chan struct{}, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.news, s.closed
}

// getEvents answers GET /v1/serve/events.
func (s *Server) getEvents(q *request) (any, error) {
	after, err := strconv.ParseUint(q.query.Get("after"), 10, 63)
	if err != nil && q.query.Get("after") != "" {
		return nil, invalid("parameter \"after\": use a number")
	}
	wait, err := strconv.Atoi(q.query.Get("wait"))
	if err != nil && q.query.Get("wait") != "" || wait < 0 || wait > 60 {
		return nil, invalid("parameter \"wait\": use a number from 0 to 60")
	}
	ctx, cancel := context.WithTimeout(q.ctx, time.Duration(wait)*time.Second)
	defer cancel()
	for {
		news, closed := s.waitChannel() // before looking, so that nothing is missed
		var out adminapi.Events
		err := s.db.View(q.ctx, func(r kv.Reader) (err error) {
			out, err = eventsAfter(r, q.who.token.MetadataServer, after)
			return err
		})
		if err != nil || len(out.Events) > 0 || out.Reset || closed {
			return out, err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return out, nil
		}
	}
}

// maxEventsAnswer bounds the events of one answer.
const maxEventsAnswer = 1000

func eventsAfter(r kv.Reader, server string, after uint64) (adminapi.Events, error) {
	out := adminapi.Events{Events: []adminapi.Event{}}
	newest, err := counter(r, "event")
	if err != nil {
		return out, err
	}
	out.Seq = newest
	if after > newest || newest-after > maxEvents {
		out.Reset = true
		return out, nil
	}
	return out, r.Scan(seqKey('v', after+1), []byte("v0"), func(key, value []byte) (bool, error) {
		var e adminapi.Event
		if err := json.Unmarshal(value, &e); err != nil {
			return false, fmt.Errorf("event %d: %w: %w", binary.BigEndian.Uint64(key[2:]), kv.ErrCorrupt, err)
		}
		v, err := read[adminapi.Volume](r, adminapi.TableVolumes, e.Volume)
		if errors.Is(err, kv.ErrNotFound) || err == nil && v.MetadataServer != server {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if len(out.Events) == maxEventsAnswer {
			out.Seq = out.Events[maxEventsAnswer-1].Seq
			return false, nil
		}
		out.Events = append(out.Events, e)
		return true, nil
	})
}

// postCertificate answers POST /v1/serve/certificate.
func (s *Server) postCertificate(q *request) (any, error) {
	var in adminapi.CertificateRequest
	if err := decodeStrict(q.body, &in); err != nil {
		return nil, err
	}
	id := q.who.token.MetadataServer
	cert, err := s.authority.sign(in.CSR, MetadataServerName(id))
	if err != nil {
		return nil, err
	}
	s.audit(adminapi.AuditRecord{
		Time: q.now, Token: q.who.token.ID, Account: q.who.token.Account, Remote: q.who.remote,
		Action: "certificate", Table: adminapi.TableMetadataServers, Entity: id, Result: "ok",
	})
	return cert, nil
}

// retention is a volume's setting as the metadata engine has it: -1 stands for ever.
func retention(seconds int64) time.Duration {
	if seconds < 0 {
		seconds = maxRetention
	}
	return time.Duration(seconds) * time.Second
}
