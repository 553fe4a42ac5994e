package file

import "strings"

// # How a key becomes a path
//
// A key is split at '/'. All parts but the last become directories, the last one
// the file. So that an object "a" and an object "a/b" can both exist, a
// directory's name ends with '+' and a file's name never does:
//
//	key           path
//	a             a
//	a/b           a+/b
//	a+            a%=
//	a/            a+/%_
//	//x           +/+/x
//	.hidden/50%   %.hidden+/50%%
//
// '%' begins an escape: "%%" is '%', "%." a '.' that begins a name (no name is
// ".", "..", or clashes with the store's own ".massif"), "%=" a '+' that ends a
// file's name, "%_" alone the empty name of a file.
//
// File systems take names of 255 bytes. A part of a key that has chunkSize bytes
// or more continues in a directory named by its first chunkSize bytes and "%+",
// as often as needed; what remains, though it be empty, is named in there. That a
// part of exactly chunkSize bytes is split too keeps all keys with that beginning
// inside one directory, which is what makes an ordered listing possible without
// merging directories.
const chunkSize = 120 // bytes of the key; escaped 240 and two for the mark

// pathOf returns the path of the object with the given key, relative to the root.
func pathOf(key string) string {
	dir, rest := dirOf(key)
	var b strings.Builder
	b.Grow(len(dir) + len(rest) + 8)
	b.WriteString(dir)
	if rest == "" {
		b.WriteString("%_")
		return b.String()
	}
	last := len(rest) - 1
	escape(&b, rest[:last])
	switch c := rest[last]; {
	case c == '+':
		b.WriteString("%=")
	case c == '%':
		b.WriteString("%%")
	case c == '.' && last == 0:
		b.WriteString("%.")
	default:
		b.WriteByte(c)
	}
	return b.String()
}

// dirOf returns the path of the directory, ending with '/' or empty for the root,
// which holds every key that begins with the given one, and what of key remains
// to be looked for in it.
func dirOf(key string) (dir, rest string) {
	var b strings.Builder
	b.Grow(len(key) + 16)
	for {
		slash := strings.IndexByte(key, '/')
		part := key
		if slash >= 0 {
			part = key[:slash]
		}
		for len(part) >= chunkSize {
			escape(&b, part[:chunkSize])
			b.WriteString("%+/")
			part = part[chunkSize:]
		}
		if slash < 0 {
			return b.String(), part
		}
		escape(&b, part)
		b.WriteString("+/")
		key = key[slash+1:]
	}
}

// escape appends the beginning s of a name.
func escape(b *strings.Builder, s string) {
	if s != "" && s[0] == '.' {
		b.WriteString("%.")
		s = s[1:]
	}
	for {
		i := strings.IndexByte(s, '%')
		if i < 0 {
			b.WriteString(s)
			return
		}
		b.WriteString(s[:i])
		b.WriteString("%%")
		s = s[i+1:]
	}
}

type nameKind int8

const (
	foreignName nameKind = iota // not made by pathOf
	fileName
	dirName
)

// fragmentOf returns the bytes of a key that a name in a directory stands for:
// a file's name for the end of a key, a directory's for bytes that all keys in it
// have next (with the '/' if it ends a part).
func fragmentOf(name string) (string, nameKind) {
	body, dir := strings.CutSuffix(name, "+")
	if !dir {
		switch frag, end, ok := unescape(name); {
		case !ok || name == "":
			return "", foreignName
		case end == '_' && name == "%_":
			return "", fileName
		case end == '=' && len(frag)+1 < chunkSize:
			return frag + "+", fileName
		case end == 0 && len(frag) < chunkSize:
			return frag, fileName
		}
		return "", foreignName
	}
	frag, end, ok := unescape(body)
	switch {
	case ok && end == 0 && len(frag) < chunkSize:
		return frag + "/", dirName
	case ok && end == '%' && len(frag) == chunkSize:
		return frag, dirName
	}
	return "", foreignName
}

// unescape undoes escape. end is the escape character that name ends with, if it
// is none of those inside a name: '=', '_', or '%' for a name cut off in an
// escape.
func unescape(name string) (s string, end byte, ok bool) {
	if name != "" && name[0] == '.' {
		return "", 0, false
	}
	if strings.IndexByte(name, '/') >= 0 {
		return "", 0, false
	}
	if strings.IndexByte(name, '%') < 0 {
		return name, 0, true
	}
	b := make([]byte, 0, len(name))
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c != '%' {
			b = append(b, c)
			continue
		}
		i++
		switch {
		case i == len(name):
			return string(b), '%', true
		case name[i] == '%':
			b = append(b, '%')
		case name[i] == '.' && i == 1:
			b = append(b, '.')
		case (name[i] == '=' || name[i] == '_') && i == len(name)-1:
			return string(b), name[i], true
		default:
			return "", 0, false
		}
	}
	return string(b), 0, true
}
