// Package monitoring puts the alert rules and the boards to the real Prometheus: its parsers and its engine.
package monitoring

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"go.yaml.in/yaml/v2"
)

const root = "../../monitoring"

var update = flag.Bool("update", false, "write the list of metrics anew")

var expressions = parser.NewParser(parser.Options{})

func files(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil || len(found) == 0 {
		t.Fatal(pattern, err)
	}
	return found
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// ruleGroups reads a rule file as Prometheus does.
func ruleGroups(t *testing.T, file string) []rulefmt.RuleGroup {
	t.Helper()
	groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, expressions, slog.Default())
	if len(errs) > 0 {
		t.Fatal(file, errs)
	}
	return groups.Groups
}

// TestRules: each alert has a severity, a summary and a runbook, and a test that sees it fire and not fire.
func TestRules(t *testing.T) {
	runbooks := string(read(t, "../../docs/runbooks.md"))
	for _, file := range files(t, "alerts/*.yaml") {
		tested := alertTests(t, filepath.Join(filepath.Dir(file), "tests", filepath.Base(file)))
		for _, group := range ruleGroups(t, file) {
			for _, rule := range group.Rules {
				_, anchor, _ := strings.Cut(rule.Annotations["runbook_url"], "docs/runbooks.md#")
				if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || anchor != strings.ToLower(rule.Alert) {
					t.Errorf("%s: %s lacks a severity, a summary or its runbook", file, rule.Alert)
				}
				if !strings.Contains(runbooks, "\n## "+rule.Alert+"\n") {
					t.Errorf("docs/runbooks.md has nothing on %s", rule.Alert)
				}
				fires, rests := false, false
				for _, one := range tested {
					for _, check := range one.Alerts {
						if check.Name == rule.Alert {
							fires = fires || len(check.Expected) > 0
							rests = rests || len(check.Expected) == 0
						}
					}
				}
				if !fires || !rests {
					t.Errorf("%s: no test sees %s both fire and not fire", file, rule.Alert)
				}
			}
		}
	}
}

// alertTest is promtool's form of a test, as far as it is used here.
type alertTest struct {
	Series []struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	} `yaml:"input_series"`
	Alerts []struct {
		At       model.Duration `yaml:"eval_time"`
		Name     string         `yaml:"alertname"`
		Expected []struct {
			Labels map[string]string `yaml:"exp_labels"`
		} `yaml:"exp_alerts"`
	} `yaml:"alert_rule_test"`
}

func alertTests(t *testing.T, file string) []alertTest {
	t.Helper()
	var out struct {
		Tests []alertTest `yaml:"tests"`
	}
	if err := yaml.Unmarshal(read(t, file), &out); err != nil {
		t.Fatal(file, err)
	}
	return out.Tests
}

func TestAlerts(t *testing.T) {
	for _, file := range files(t, "alerts/tests/*.yaml") {
		groups := ruleGroups(t, filepath.Join(root, "alerts", filepath.Base(file)))
		for i, one := range alertTests(t, file) {
			t.Run(fmt.Sprintf("%s/%d", strings.TrimSuffix(filepath.Base(file), ".yaml"), i), func(t *testing.T) { run(t, groups, one) })
		}
	}
}

// run evaluates every rule each minute, as Prometheus would, and compares what fires at the times of the test.
func run(t *testing.T, groups []rulefmt.RuleGroup, test alertTest) {
	load := "load 1m\n"
	for _, s := range test.Series {
		load += "  " + s.Series + " " + s.Values + "\n"
	}
	storage := promqltest.LoadedStorage(t, load)
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	query := rules.EngineQueryFunc(engine, storage)
	for _, group := range groups {
		for _, rule := range group.Rules {
			expr, err := expressions.ParseExpr(rule.Expr)
			if err != nil {
				t.Fatal(err)
			}
			alert := rules.NewAlertingRule(rule.Alert, expr, time.Duration(rule.For), 0, labels.FromMap(rule.Labels), labels.FromMap(rule.Annotations), labels.EmptyLabels(), "", true, slog.Default())
			check(t, alert, query, test)
		}
	}
}

func check(t *testing.T, alert *rules.AlertingRule, query rules.QueryFunc, test alertTest) {
	t.Helper()
	var last time.Duration
	for _, c := range test.Alerts {
		if c.Name == alert.Name() {
			last = max(last, time.Duration(c.At))
		}
	}
	for at := time.Duration(0); at <= last; at += time.Minute {
		if _, err := alert.Eval(context.Background(), 0, time.Unix(0, 0).Add(at), query, &url.URL{}, 0); err != nil {
			t.Fatal(err)
		}
		for _, c := range test.Alerts {
			if c.Name != alert.Name() || time.Duration(c.At) != at {
				continue
			}
			var want, got []string
			for _, e := range c.Expected {
				want = append(want, fmt.Sprint(labels.FromMap(e.Labels)))
			}
			for _, active := range alert.ActiveAlerts() {
				if active.State == rules.StateFiring {
					got = append(got, fmt.Sprint(labels.NewBuilder(active.Labels).Del(labels.AlertName).Labels()))
				}
			}
			slices.Sort(got)
			if !slices.Equal(want, got) {
				t.Errorf("%s at %s: fires for %v, not %v", c.Name, c.At, got, want)
			}
		}
	}
}

var variable = regexp.MustCompile(`\$\w+`)

// boardQueries are the expressions of a board, with its variables filled in.
func boardQueries(t *testing.T, file string) []string {
	t.Helper()
	var board struct {
		Title  string
		Panels []struct {
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(read(t, file), &board); err != nil {
		t.Fatal(file, err)
	}
	var queries []string
	for _, panel := range board.Panels {
		if len(panel.Targets) == 0 || panel.GridPos.X+panel.GridPos.W > 24 {
			t.Errorf("%s: the panel %s has no query or no room", file, panel.Title)
		}
		for _, target := range panel.Targets {
			queries = append(queries, variable.ReplaceAllString(target.Expr, "x"))
		}
	}
	return queries
}

// TestMetrics: all that alerts, boards and Kiali ask can be parsed, and the list of what they read is up to date. That what they
// read is exported is tested with the real binaries (test/e2e).
func TestMetrics(t *testing.T) {
	asked := map[string]bool{}
	note := func(file, query string) {
		expr, err := expressions.ParseExpr(query)
		if err != nil {
			t.Errorf("%s: %s: %v", file, query, err)
			return
		}
		for _, selector := range parser.ExtractSelectors(expr) {
			asked[line(selector, groupings(expr))] = true
		}
	}
	for _, file := range files(t, "alerts/*.yaml") {
		for _, group := range ruleGroups(t, file) {
			for _, rule := range group.Rules {
				note(file, rule.Expr)
			}
		}
	}
	for _, file := range files(t, "dashboards/*.json") {
		for _, query := range boardQueries(t, file) {
			note(file, query)
		}
	}
	for query := range strings.Lines(string(read(t, filepath.Join(root, "kiali.promql")))) {
		if query = strings.TrimSpace(query); query != "" && !strings.HasPrefix(query, "#") {
			note("kiali.promql", query)
		}
	}
	want := strings.Join(slices.Sorted(maps.Keys(asked)), "\n") + "\n"
	list := filepath.Join(root, "metrics.txt")
	if *update {
		if err := os.WriteFile(list, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := os.ReadFile(list); string(got) != want {
		t.Errorf("%s is not what alerts, boards and Kiali read: go test -update", list)
	}
}

// groupings are the labels by which an expression adds up.
func groupings(expr parser.Expr) []string {
	var out []string
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if sum, ok := node.(*parser.AggregateExpr); ok && !sum.Without {
			out = append(out, sum.Grouping...)
		}
		return nil
	})
	return out
}

// line is a metric and the labels that are asked of it: to select by, and to add up by.
func line(selector []*labels.Matcher, by []string) string {
	var name string
	with := slices.DeleteFunc(slices.Clone(by), func(label string) bool {
		return label == "app" || label == "instance" || label == "pod" || label == "namespace" || label == "job"
	})
	for _, matcher := range selector {
		switch {
		case matcher.Name == model.MetricNameLabel:
			name = matcher.Value
		case matcher.Name != "app": // it is the scraper's
			with = append(with, matcher.Name)
		}
	}
	slices.Sort(with)
	return strings.TrimSpace(name + " " + strings.Join(slices.Compact(with), ","))
}
