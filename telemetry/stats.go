package telemetry

import (
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
)

// statsCollector exports the numbers of a struct.
type statsCollector struct {
	subsystem string
	labels    Labels
	read      func() any
	desc      *prometheus.Desc
}

// described gives c a description of its own, by which the registry knows it.
func (c *statsCollector) described() *statsCollector {
	c.desc = prometheus.NewDesc("massif_"+c.subsystem+"_up", "Whether there are statistics.", nil, c.labels)
	return c
}

// Describe implements prometheus.Collector. The other metrics depend on what
// read returns; the registry checks them when they are collected.
func (c *statsCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *statsCollector) Collect(ch chan<- prometheus.Metric) {
	v := reflect.ValueOf(c.read())
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return
	}
	ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, 1)
	c.collect(ch, v, "massif_"+c.subsystem+"_")
}

func (c *statsCollector) collect(ch chan<- prometheus.Metric, v reflect.Value, prefix string) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		if field.Anonymous && name == "" && field.Type.Kind() == reflect.Struct {
			c.collect(ch, v.Field(i), prefix)
			continue
		}
		if name == "" {
			name = field.Name
		}
		name = prefix + snake(name)
		var n float64
		f := v.Field(i)
		switch {
		case field.Type == reflect.TypeFor[time.Duration]():
			name = strings.TrimSuffix(name, "_ns") + "_seconds"
			n = time.Duration(f.Int()).Seconds()
		case f.CanInt():
			n = float64(f.Int())
		case f.CanUint():
			n = float64(f.Uint())
		case f.CanFloat():
			n = f.Float()
		case f.Kind() == reflect.Bool:
			if f.Bool() {
				n = 1
			}
		case f.Kind() == reflect.Struct:
			c.collect(ch, f, name+"_")
			continue
		default:
			continue
		}
		desc := prometheus.NewDesc(name, fmt.Sprintf("Field %s of the statistics of %s.", field.Name, c.subsystem), nil, c.labels)
		m, err := prometheus.NewConstMetric(desc, prometheus.UntypedValue, n)
		if err != nil {
			m = prometheus.NewInvalidMetric(desc, err)
		}
		ch <- m
	}
}

// snake turns a name as in Go or JSON into one as in Prometheus.
func snake(name string) string {
	var out strings.Builder
	var before rune
	runes := []rune(name)
	for i, r := range runes {
		switch {
		case unicode.IsUpper(r):
			// A word begins after a small letter, or before one in ABCWord.
			next := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if i > 0 && before != '_' && (!unicode.IsUpper(before) || next) {
				out.WriteByte('_')
			}
			out.WriteRune(unicode.ToLower(r))
		case r < unicode.MaxASCII && (unicode.IsLower(r) || unicode.IsDigit(r)):
			out.WriteRune(r)
		default:
			out.WriteByte('_')
		}
		before = r
	}
	return out.String()
}
