package main

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	pb "duite/v1"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// A step is the words of a line: `verb key=value key=value`.
type step struct {
	verb  string
	words [][2]string
}

func parse(line string) step {
	words := strings.Split(line, " ")
	s := step{verb: words[0]}
	for _, word := range words[1:] {
		s.words = append(s.words, cut(word, "="))
	}
	return s
}

func (s step) get(key string) string {
	for _, word := range s.words {
		if word[0] == key {
			return word[1]
		}
	}
	return ""
}

// pairs gives the words `key=K:V` as a map.
func (s step) pairs(key string) map[string]string {
	pairs := map[string]string{}
	for _, word := range s.words {
		if word[0] == key {
			pair := cut(word[1], ":")
			pairs[pair[0]] = pair[1]
		}
	}
	return pairs
}

func (s step) int(key string) int64 { return integer(s.get(key)) }

// seconds gives a duration, that of `otherwise` where the key is missing.
func (s step) seconds(key string, otherwise float64) time.Duration {
	if text := s.get(key); text != "" {
		otherwise, _ = strconv.ParseFloat(text, 64)
	}
	return time.Duration(otherwise * float64(time.Second))
}

func (s step) duration(key string) *durationpb.Duration { return durationpb.New(s.seconds(key, 0)) }

func cut(text, mark string) [2]string {
	parts := append(strings.SplitN(text, mark, 2), "")
	return [2]string{parts[0], parts[1]}
}

func integer(text string) int64 {
	number, _ := strconv.ParseInt(text, 10, 64)
	return number
}

// Data, values and updates, as the scenario writes them.

func pattern(size int64) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i % 251)
	}
	return data
}

func sum(data []byte) (sum int) {
	for _, b := range data {
		sum += int(b)
	}
	return sum
}

func payload(text string) *pb.Payload {
	data := []byte(text)
	if strings.HasPrefix(text, "@") {
		data = pattern(integer(text[1:]))
	}
	return &pb.Payload{ContentType: "text/plain", Data: data}
}

func showPayload(name string, given *pb.Payload) string {
	data := given.GetData()
	switch {
	case len(data) == 0:
		return ""
	case len(data) <= 100:
		return fmt.Sprintf(" %s=%s", name, data)
	default:
		return fmt.Sprintf(" %s=@%d,%d", name, len(data), sum(data))
	}
}

func intValue(number int64) *pb.Value {
	return &pb.Value{Kind: &pb.Value_Integer{Integer: number}}
}

func valueOf(word string, number int64) *pb.Value {
	kind, text := cut(word, ":")[0], cut(word, ":")[1]
	items := strings.Split(text, ",")
	switch kind {
	case "int":
		if text == "#" {
			return intValue(number)
		}
		return intValue(integer(text))
	case "number":
		float, _ := strconv.ParseFloat(text, 64)
		return &pb.Value{Kind: &pb.Value_Number{Number: float}}
	case "text":
		return &pb.Value{Kind: &pb.Value_Text{Text: text}}
	case "bool":
		return &pb.Value{Kind: &pb.Value_Boolean{Boolean: text == "true"}}
	case "list":
		list := &pb.ListValue{}
		for _, item := range items {
			list.Items = append(list.Items, intValue(integer(item)))
		}
		return &pb.Value{Kind: &pb.Value_List{List: list}}
	case "map":
		entries := &pb.MapValue{}
		for i := 0; i+1 < len(items); i += 2 {
			entry := &pb.MapEntry{Key: items[i], Value: intValue(integer(items[i+1]))}
			entries.Entries = append(entries.Entries, entry)
		}
		return &pb.Value{Kind: &pb.Value_Map{Map: entries}}
	case "time":
		return &pb.Value{Kind: &pb.Value_Time{Time: &timestamppb.Timestamp{Seconds: integer(text)}}}
	case "blob":
		blob := &pb.Blob{ContentType: items[0], Data: pattern(integer(items[1]))}
		return &pb.Value{Kind: &pb.Value_Blob{Blob: blob}}
	default:
		return &pb.Value{Kind: &pb.Value_Null{Null: true}}
	}
}

func showValue(value *pb.Value) string {
	switch kind := value.GetKind().(type) {
	case *pb.Value_Integer:
		return fmt.Sprintf("int:%d", kind.Integer)
	case *pb.Value_Number:
		return fmt.Sprintf("number:%.3f", kind.Number)
	case *pb.Value_Text:
		return "text:" + kind.Text
	case *pb.Value_Boolean:
		return fmt.Sprintf("bool:%t", kind.Boolean)
	case *pb.Value_List:
		var items []string
		for _, item := range kind.List.Items {
			items = append(items, fmt.Sprint(item.GetInteger()))
		}
		return "list:" + strings.Join(items, ",")
	case *pb.Value_Map:
		var items []string
		for _, entry := range kind.Map.Entries {
			items = append(items, entry.Key, fmt.Sprint(entry.Value.GetInteger()))
		}
		return "map:" + strings.Join(items, ",")
	case *pb.Value_Time:
		return fmt.Sprintf("time:%d", kind.Time.Seconds)
	case *pb.Value_Blob:
		return fmt.Sprintf("blob:%s,%d,%d", kind.Blob.ContentType, len(kind.Blob.Data), sum(kind.Blob.Data))
	default:
		return "null:" // also a kind of a later version
	}
}

func updatesOf(s step, number int64) (updates []*pb.KeyUpdate) {
	for _, word := range s.words {
		key, text := cut(word[1], ":")[0], cut(word[1], ":")[1]
		update := &pb.KeyUpdate{Key: key}
		switch word[0] {
		case "put":
			update.Operation = &pb.KeyUpdate_Put{Put: valueOf(text, number)}
		case "add":
			update.Operation = &pb.KeyUpdate_Add{Add: valueOf(text, number)}
		case "max":
			update.Operation = &pb.KeyUpdate_Max{Max: valueOf(text, number)}
		case "min":
			update.Operation = &pb.KeyUpdate_Min{Min: valueOf(text, number)}
		case "delete":
			update.Operation = &pb.KeyUpdate_Delete{Delete: true}
		default:
			continue
		}
		updates = append(updates, update)
	}
	return updates
}

// showMap gives ` name=K:V` for each entry, in the order of the keys.
func showMap(name string, entries map[string]string) (text string) {
	for _, key := range sortedKeys(entries) {
		text += fmt.Sprintf(" %s=%s:%s", name, key, entries[key])
	}
	return text
}

func sortedKeys(entries map[string]string) (keys []string) {
	for key := range entries {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

// enum gives the name of an enum's value without its prefix.
func enum(value fmt.Stringer, prefix string) string {
	return strings.TrimPrefix(value.String(), prefix)
}

// short gives the id of a full name.
func short(name string) string { return name[strings.LastIndex(name, "/")+1:] }

// optional gives ` name=text` where there is a text.
func optional(name, text string) string {
	if text == "" {
		return ""
	}
	return fmt.Sprintf(" %s=%s", name, text)
}

// showStatus gives `CODE REASON` of an error. Its details come from grpc-status-details-bin.
func showStatus(failed *status.Status) string {
	reason, field := "-", ""
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.Domain == "duite" {
				reason = detail.Reason
			}
		case *errdetails.BadRequest:
			field = optional("field", detail.FieldViolations[0].Field)
		}
	}
	return fmt.Sprintf("%s %s%s", code.Code(failed.Code()), reason, field)
}
