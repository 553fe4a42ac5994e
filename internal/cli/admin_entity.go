package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// flagName makes a flag's name of a field's: quotaBytes is --quota-bytes.
func flagName(field string) string {
	var b strings.Builder
	for i, r := range field {
		if unicode.IsUpper(r) && i > 0 && !unicode.IsUpper(rune(field[i-1])) {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// fieldFlag is a field of an entity as a flag: it makes the field's JSON value of what
// people write.
type fieldFlag struct {
	field  *adminapi.Field
	values map[string]any
}

func (f *fieldFlag) String() string { return "" }

func (f *fieldFlag) Type() string {
	switch {
	case f.field.Kind == adminapi.KindSwitch:
		return "bool"
	case f.field.Unit == "bytes":
		return "SIZE"
	case f.field.Unit == "seconds":
		return "DURATION"
	case f.field.Kind == adminapi.KindNumber:
		return "N"
	case f.field.Kind == adminapi.KindTime:
		return "TIME"
	case f.field.Kind == adminapi.KindTexts:
		return "LIST"
	case f.field.Ref != "":
		return strings.ToUpper(strings.ReplaceAll(adminapi.SchemaOf(f.field.Ref).One, "-", " "))
	}
	return "TEXT"
}

func (f *fieldFlag) Set(s string) error {
	v, err := fieldValue(f.field, s, time.Now())
	f.values[f.field.Name] = v
	return err
}

// fieldValue reads what people write for a field.
func fieldValue(f *adminapi.Field, s string, now time.Time) (any, error) {
	switch {
	case f.Kind == adminapi.KindSwitch:
		return strconv.ParseBool(s)
	case f.Unit == "bytes":
		n, err := mount.ParseSize(s)
		return int64(n), err
	case f.Unit == "seconds":
		if s == "forever" || s == "-1" {
			return -1, nil
		}
		d, err := mount.ParseDuration(s)
		if err == nil && time.Duration(d)%time.Second != 0 {
			err = errors.New("use whole seconds")
		}
		return int64(time.Duration(d) / time.Second), err
	case f.Kind == adminapi.KindNumber:
		return strconv.ParseInt(s, 10, 64)
	case f.Kind == adminapi.KindTime:
		return pointInTime(s, now)
	case f.Kind == adminapi.KindTexts:
		if s == "" {
			return []string{}, nil
		}
		return strings.Split(s, ","), nil
	}
	return s, nil
}

// pointInTime reads a time to come: a date, a time, or how long from now on. "never" is
// none.
func pointInTime(s string, now time.Time) (any, error) {
	if s == "never" || s == "" {
		return nil, nil
	}
	if d, err := mount.ParseDuration(s); err == nil {
		return now.Add(time.Duration(d)).UTC().Truncate(time.Second), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t.UTC(), nil
		}
	}
	return nil, fmt.Errorf("time %q: write 90d for ninety days from now, 2027-01-31, 2027-01-31T12:00:00Z, or never", s)
}

// verb makes "create" or "update", with one command for each kind of entity.
func (c *adminCommand) verb(verb string) *cobra.Command {
	short := map[string]string{"create": "Make", "update": "Change"}[verb]
	var subs []*cobra.Command
	for _, s := range adminapi.Schemas() {
		subs = append(subs, c.verbOf(verb, short, s))
	}
	return c.group(&cobra.Command{Use: verb, Short: short + " an entity"}, subs...)
}

func (c *adminCommand) verbOf(verb, short string, s *adminapi.Schema) *cobra.Command {
	values := map[string]any{}
	var secretFile string
	use, args := s.One+" NAME", exactArgs("NAME")
	if s.Table == adminapi.TableTokens && verb == "create" {
		use, args = s.One+" [NAME]", cmdline.Args(0, "NAME")
	}
	cmd := &cobra.Command{
		Use: use, Short: short + " a " + strings.ReplaceAll(s.One, "-", " "), Args: args,
		Example: "  massif admin " + verb + " " + s.One + " " + entityExamples[verb][s.Table],
		RunE: func(cmd *cobra.Command, args []string) error {
			if secretFile != "" {
				secret, err := c.readSecret("secret key", secretFile)
				if err != nil {
					return err
				}
				values["secretKey"] = secret
			}
			if verb == "update" && len(values) == 0 {
				return usageError("%s: name a field to change; \"%s --help\" lists them", cmd.CommandPath(), cmd.CommandPath())
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Close()
			out := s.New()
			if verb == "create" {
				if len(args) > 0 {
					values["name"] = args[0]
				}
				err = client.Create(cmd.Context(), s.Table, values, out)
			} else {
				err = client.Update(cmd.Context(), s.Table, args[0], values, out)
			}
			if err != nil {
				return err
			}
			return c.made(verb, s, out)
		},
	}
	cmd.Flags().SortFlags = false
	for i := range s.Fields {
		f := &s.Fields[i]
		skip := f.Access == adminapi.AccessReadOnly || f.Access == adminapi.AccessShown || f.Access == adminapi.AccessOnce && verb == "update" ||
			f.Name == "name" && verb == "create"
		if skip {
			continue
		}
		if f.Access == adminapi.AccessWrite {
			cmd.Flags().StringVar(&secretFile, flagName(f.Name)+"-file", "", "`FILE` with the "+f.Doc+"; -: standard input")
			continue
		}
		flag := cmd.Flags().VarPF(&fieldFlag{f, values}, flagName(f.Name), "", f.Doc)
		if f.Kind == adminapi.KindSwitch {
			flag.NoOptDefVal = "true"
		}
		if len(f.Enum) > 0 {
			cmd.RegisterFlagCompletionFunc(flagName(f.Name), cobra.FixedCompletions(f.Enum, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	c.jsonFlag(cmd)
	return cmd
}

// entityExamples are the ends of examples, by verb and table.
var entityExamples = map[string]map[string]string{
	"create": {
		adminapi.TableAccounts:        "lab --notes 'the people downstairs'",
		adminapi.TableStores:          "data --url 's3://my-bucket/massif?region=eu-central-1' --access-key-id AKIA… --secret-key-file key",
		adminapi.TableMetadataServers: "meta1 --address meta1.example.com:7444",
		adminapi.TableProxyGroups:     "hall --addresses 10.0.0.1:7445,10.0.0.2:7445",
		adminapi.TableVolumes:         "photos --store data --metadata-server meta1 --retention 30d --quota-bytes 2TiB",
		adminapi.TableTokens:          "client1 --volume photos --path team-a --read-only --expires 90d",
	},
	"update": {
		adminapi.TableAccounts:        "lab --disabled",
		adminapi.TableStores:          "data --access-key-id AKIA… --secret-key-file key",
		adminapi.TableMetadataServers: "meta1 --address 10.0.0.7:7444",
		adminapi.TableProxyGroups:     "hall --addresses 10.0.0.1:7445",
		adminapi.TableVolumes:         "photos --quota-bytes 4TiB --flags noexec,root-squash",
		adminapi.TableTokens:          "client1 --expires 7d",
	},
}

// made tells what was made or changed, with the secret that is shown once.
func (c *adminCommand) made(verb string, s *adminapi.Schema, e adminapi.Entity) error {
	if c.json {
		return c.printJSON(e)
	}
	b := e.Base()
	name := b.Name
	if name == "" {
		name = b.ID
	}
	fmt.Fprintf(c.out, "%s %s is %s (ID %s)\n", strings.ReplaceAll(s.One, "-", " "), name, map[string]string{"create": "made", "update": "changed"}[verb], b.ID)
	if f := s.Field("token"); f != nil && f.Value(e).String() != "" {
		fmt.Fprintf(c.out, "token, shown this once: %s\n", f.Value(e).String())
	}
	return nil
}

// entityArg finds the table of the word that a person writes.
func entityArg(word string) (*adminapi.Schema, error) {
	if s := adminapi.SchemaOf(word); s != nil {
		return s, nil
	}
	var names []string
	for _, s := range adminapi.Schemas() {
		names = append(names, s.One)
	}
	if near := mount.Nearest(word, names); near != "" {
		return nil, usageError("there is no entity %q; did you mean %q?", word, near)
	}
	return nil, usageError("there is no entity %q; there are %s", word, strings.Join(names, ", "))
}

func completeEntity(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, s := range adminapi.Schemas() {
		names = append(names, s.One)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (c *adminCommand) list() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "list ENTITY", Short: "List entities", Args: exactArgs("ENTITY"),
		Example: "  massif admin list volumes\n  massif admin list token --all --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := entityArg(args[0])
			if err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Close()
			query := url.Values{}
			if all {
				query.Set("retired", "true")
			}
			list := []adminapi.Entity{}
			err = client.ListAll(cmd.Context(), s.Table, query, func(m json.RawMessage) error {
				e := s.New()
				list = append(list, e)
				return json.Unmarshal(m, e)
			})
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(list)
			}
			return c.printEntities(cmd, client, s, list)
		},
		ValidArgsFunction: completeEntity,
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also volumes that are deleted and tokens that are revoked")
	c.jsonFlag(cmd)
	return cmd
}

// columns are the fields that a listing shows.
var columns = map[string][]string{
	adminapi.TableAccounts:        {"name", "id", "system", "disabled", "created"},
	adminapi.TableStores:          {"name", "url", "accessKeyID", "account", "id"},
	adminapi.TableMetadataServers: {"name", "address", "account", "id"},
	adminapi.TableProxyGroups:     {"name", "addresses", "account", "id"},
	adminapi.TableVolumes:         {"name", "account", "store", "metadataServer", "encryption", "retention", "quotaBytes", "flags", "retired", "id"},
	adminapi.TableTokens:          {"id", "name", "kind", "account", "role", "volume", "path", "readOnly", "flags", "expires", "lastUsed", "revoked"},
}

func (c *adminCommand) printEntities(cmd *cobra.Command, client *adminapi.Client, s *adminapi.Schema, list []adminapi.Entity) error {
	if len(list) == 0 {
		fmt.Fprintf(c.err, "there are no %s\n", strings.ReplaceAll(s.Table, "-", " "))
		return nil
	}
	names, err := refNames(cmd, client, s, list)
	if err != nil {
		return err
	}
	var head []string
	for _, name := range columns[s.Table] {
		head = append(head, strings.ToUpper(strings.ReplaceAll(flagName(name), "-", " ")))
	}
	t := newTable(c.out, head...)
	for _, e := range list {
		var row []string
		for _, name := range columns[s.Table] {
			f := s.Field(name)
			row = append(row, showField(f, f.Value(e), names))
		}
		t.row(row...)
	}
	return t.flush()
}

// refNames gets the names of what the entities refer to.
func refNames(cmd *cobra.Command, client *adminapi.Client, s *adminapi.Schema, list []adminapi.Entity) (map[string]string, error) {
	names := map[string]string{}
	asked := map[string]bool{}
	for i := range s.Fields {
		f := &s.Fields[i]
		used := false
		for _, e := range list {
			used = used || !f.Value(e).IsZero()
		}
		if f.Ref == "" || asked[f.Ref] || !used {
			continue
		}
		asked[f.Ref] = true
		err := client.ListAll(cmd.Context(), f.Ref, url.Values{"retired": {"true"}}, func(m json.RawMessage) error {
			var b adminapi.Common
			err := json.Unmarshal(m, &b)
			names[b.ID] = b.Name
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return names, nil
}

// showField writes a value for people; "-" is none.
func showField(f *adminapi.Field, v reflect.Value, names map[string]string) string {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return "-"
		}
		v = v.Elem()
	}
	name := func(id string) string {
		if n := names[id]; f.Ref != "" && n != "" {
			return n
		}
		return id
	}
	switch {
	case f.Kind == adminapi.KindTime:
		return humanTime(v.Interface().(time.Time))
	case f.Kind == adminapi.KindSwitch && v.Bool():
		return "yes"
	case f.Kind == adminapi.KindTexts && v.Len() > 0:
		var all []string
		for i := range v.Len() {
			all = append(all, name(v.Index(i).String()))
		}
		return strings.Join(all, ",")
	case f.Unit == "seconds" && v.Int() == -1:
		return "forever"
	case f.Unit == "seconds":
		return mount.Duration(time.Duration(v.Int()) * time.Second).String()
	case v.IsZero():
		return "-"
	case f.Unit == "bytes":
		return humanBytes(v.Int())
	case f.Kind == adminapi.KindNumber:
		return humanCount(v.Int())
	}
	return name(v.String())
}

func (c *adminCommand) show() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ENTITY NAME", Short: "Show one entity", Args: exactArgs("ENTITY", "NAME"),
		Example: "  massif admin show volume photos",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := entityArg(args[0])
			if err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Close()
			e := s.New()
			if err := client.Get(cmd.Context(), s.Table, args[1], e); err != nil {
				return err
			}
			if c.json {
				return c.printJSON(e)
			}
			names, err := refNames(cmd, client, s, []adminapi.Entity{e})
			if err != nil {
				return err
			}
			t := newTable(c.out)
			for i := range s.Fields {
				f := &s.Fields[i]
				if f.Access != adminapi.AccessWrite && f.Access != adminapi.AccessShown {
					t.row(strings.ReplaceAll(flagName(f.Name), "-", " "), showField(f, f.Value(e), names))
				}
			}
			return t.flush()
		},
		ValidArgsFunction: completeEntity,
	}
	c.jsonFlag(cmd)
	return cmd
}

func (c *adminCommand) remove() *cobra.Command {
	return &cobra.Command{
		Use: "delete ENTITY NAME", Aliases: []string{"revoke"}, Short: "Delete an entity, revoke a token",
		Long: `Delete an entity. A token is revoked: its mounts end within seconds. A volume is
retired: its mounts end, no new ones begin, and its metadata server removes its data;
it cannot be brought back.`,
		Example: "  massif admin delete token client1\n  massif admin delete volume photos",
		Args:    exactArgs("ENTITY", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := entityArg(args[0])
			if err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Close()
			if err := client.Delete(cmd.Context(), s.Table, args[1]); err != nil {
				return err
			}
			done := "deleted"
			if s.Table == adminapi.TableTokens {
				done = "revoked"
			}
			fmt.Fprintf(c.out, "%s %s is %s\n", strings.ReplaceAll(s.One, "-", " "), args[1], done)
			return nil
		},
		ValidArgsFunction: completeEntity,
	}
}

func (c *adminCommand) audit() *cobra.Command {
	var after uint64
	cmd := &cobra.Command{
		Use: "audit", Short: "Show the audit log",
		Long: `Show who has changed what, when and from where, and which tokens were refused. The log
only grows; --after N shows what came after record N.`,
		Example: "  massif admin audit\n  massif admin audit --after 1000 --json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Close()
			list := []adminapi.AuditRecord{}
			query := url.Values{"limit": {"1000"}}
			if after > 0 {
				query.Set("after", strconv.FormatUint(after, 10))
			}
			err = client.ListAll(cmd.Context(), "audit", query, func(m json.RawMessage) error {
				var r adminapi.AuditRecord
				err := json.Unmarshal(m, &r)
				list = append(list, r)
				return err
			})
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(list)
			}
			t := newTable(c.out, "N", "TIME", "RESULT", "ACTION", "WHAT", "TOKEN", "FROM", "FIELDS", "WHY")
			for _, r := range list {
				what := strings.TrimSpace(r.Table + " " + r.Name)
				if r.Name == "" {
					what = strings.TrimSpace(r.Table + " " + r.Entity)
				}
				t.row(fmt.Sprint(r.Seq), humanTime(r.Time), r.Result, r.Action, orDash(what), orDash(r.Token), orDash(r.Remote), orDash(strings.Join(r.Fields, ",")), orDash(r.Detail))
			}
			return t.flush()
		},
	}
	cmd.Flags().Uint64Var(&after, "after", 0, "show records after this `N`")
	c.jsonFlag(cmd)
	return cmd
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
