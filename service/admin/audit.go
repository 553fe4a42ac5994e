package admin

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// appendAudit adds a record to the audit log, within the transaction of what it is
// about where there is one. Records are never changed or removed.
func appendAudit(w kv.Txn, a adminapi.AuditRecord) error {
	seq, err := next(w, "audit")
	if err != nil {
		return err
	}
	a.Seq = seq
	data, err := json.Marshal(&a)
	if err != nil {
		return err
	}
	w.Put(seqKey('a', seq), data)
	return nil
}

// auditOf is the record of a change that is allowed.
func (c *change) auditOf(action string) adminapi.AuditRecord {
	b := c.new.Base()
	a := adminapi.AuditRecord{
		Time: c.now, Token: c.who.token.ID, Remote: c.who.remote, Account: b.Account,
		Action: action, Table: c.schema.Table, Entity: b.ID, Name: b.Name, Result: "ok",
	}
	if a.Account == "" {
		a.Account = c.who.token.Account
	}
	for name := range c.given {
		a.Fields = append(a.Fields, name)
	}
	slices.Sort(a.Fields)
	return a
}

// auditPage reads records after a sequence number. Tokens other than the
// installation's see those of their account.
func auditPage(r kv.Reader, w *who, after uint64, limit int) (adminapi.List[adminapi.AuditRecord], error) {
	page := adminapi.List[adminapi.AuditRecord]{Items: []adminapi.AuditRecord{}}
	err := r.Scan(seqKey('a', after+1), []byte("a0"), func(key, value []byte) (bool, error) {
		var a adminapi.AuditRecord
		if err := json.Unmarshal(value, &a); err != nil {
			return false, fmt.Errorf("audit record %x: %w: %w", key, kv.ErrCorrupt, err)
		}
		if !w.system() && a.Account != w.token.Account {
			return true, nil
		}
		if len(page.Items) == limit {
			page.Next = fmt.Sprint(page.Items[limit-1].Seq)
			return false, nil
		}
		page.Items = append(page.Items, a)
		return true, nil
	})
	return page, err
}
