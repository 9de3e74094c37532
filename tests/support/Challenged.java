import java.net.Authenticator;
import java.net.PasswordAuthentication;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.cert.X509Certificate;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

/** The JDK's client, with an authenticator: it throws at a 401 without a challenge. Prints status, version, challenge. */
public class Challenged {
    public static void main(String[] arguments) throws Exception {
        System.setProperty("jdk.internal.httpclient.disableHostnameVerification", "true");
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(null, new TrustManager[] {new AnyCertificate()}, null);
        HttpClient.Version version = HttpClient.Version.valueOf(arguments[0]);
        HttpClient client =
                HttpClient.newBuilder().version(version).sslContext(tls).authenticator(new Password()).build();
        HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[1])).build();
        HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
        String challenge = answer.headers().firstValue("www-authenticate").orElse("no challenge");
        System.out.println(answer.statusCode() + " " + answer.version() + " " + challenge);
    }

    private static final class Password extends Authenticator {
        @Override
        protected PasswordAuthentication getPasswordAuthentication() {
            return new PasswordAuthentication("name", "password".toCharArray());
        }
    }

    private static final class AnyCertificate implements X509TrustManager {
        @Override
        public void checkClientTrusted(X509Certificate[] chain, String kind) {}

        @Override
        public void checkServerTrusted(X509Certificate[] chain, String kind) {}

        @Override
        public X509Certificate[] getAcceptedIssuers() {
            return new X509Certificate[0];
        }
    }
}
